"""Tiny checkpoints with random weights, laid out as those on the hub: what most tests of this project run on.

    tiny_llama(folder, shards=3)         sentencepiece-style tokenizer with byte fallback, BOS added
    tiny_mistral, tiny_phi3, tiny_gemma2 the same tokenizer; sliding window, fused matrices, capped scores
    tiny_qwen2, tiny_qwen3               byte-level BPE with Qwen's pre-tokenizer, special tokens and chat markup
    tiny_qwen3_moe                       the same with experts, one tensor each
    tiny_qwen2_5_vl                      the same with a vision tower, hub tensor names, preprocessor_config.json

Each returns its folder. Everything is seeded: equal arguments give equal files.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>"),
)
QWEN_ADDED = ("<tool_call>", "</tool_call>")  # added tokens, but not special ones
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %}{{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def tiny_llama(
    folder: Path,
    *,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 384,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A Llama; `config` are more words of its config.json (rope_scaling, attention_bias, ...)."""
    text = _text_config("llama", "LlamaForCausalLM", hidden, layers, heads, kv_heads, vocab, tied, dtype)
    text |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, **config}
    _save_tokenizer(folder, sentencepiece_tokenizer(vocab), LLAMA_TOKENIZER_CONFIG)
    return _save(folder, text, shards, seed, {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False})


def tiny_mistral(folder: Path, *, tied: bool = False, window: int | None = 24, seed: int = 0, **config: Any) -> Path:
    """A Mistral whose every layer sees `window` tokens back."""
    text = _text_config("mistral", "MistralForCausalLM", 64, 2, 4, 2, 384, tied, "bfloat16")
    text |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2}
    text |= {"sliding_window": window, "head_dim": 24, **config}
    return _save_llama(folder, text, seed)


def tiny_phi3(folder: Path, *, tied: bool = False, longrope: bool = False, seed: int = 0, **config: Any) -> Path:
    """A Phi-3: q, k and v in one matrix, gate and up in one; with `longrope` two sets of rotary frequencies."""
    text = _text_config("phi3", "Phi3ForCausalLM", 64, 2, 4, 2, 384, tied, "bfloat16")
    text |= {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text |= {"sliding_window": None, "original_max_position_embeddings": 512}
    if longrope:
        short, long = [1.0 + i / 16 for i in range(8)], [2.0 + i for i in range(8)]
        scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
        text |= {"original_max_position_embeddings": 128, "rope_scaling": scaling}
    return _save_llama(folder, text | config, seed)


def tiny_gemma2(folder: Path, *, tied: bool = True, window: int = 24, seed: int = 0, **config: Any) -> Path:
    """A Gemma 2: capped scores and logits, four norms a layer, every second layer sees `window` tokens back."""
    text = _text_config("gemma2", "Gemma2ForCausalLM", 64, 2, 4, 2, 384, tied, "bfloat16")
    text |= {"rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "head_dim": 24}
    text |= {"query_pre_attn_scalar": 32, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
    text |= {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": window, **config}
    return _save_llama(folder, text, seed)


def tiny_qwen2(
    folder: Path,
    *,
    tied: bool = False,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
    **config: Any,
) -> Path:
    """A Qwen2 (or 2.5): biases on q, k and v; its embedding has more rows than the tokenizer has tokens."""
    text = _text_config("qwen2", "Qwen2ForCausalLM", hidden, layers, heads, kv_heads, vocab, tied, dtype)
    return _save_qwen(folder, text, shards, seed, config)


def tiny_qwen3(
    folder: Path,
    *,
    tied: bool = True,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
    head_dim: int = 32,
    **config: Any,
) -> Path:
    """A Qwen3: norms on q and k, and heads of a width that is not hidden / heads."""
    text = _text_config("qwen3", "Qwen3ForCausalLM", hidden, layers, heads, kv_heads, vocab, tied, dtype)
    text |= {"head_dim": head_dim, "attention_bias": False}
    return _save_qwen(folder, text, shards, seed, config)


def tiny_qwen3_moe(
    folder: Path,
    *,
    tied: bool = False,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 512,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
    experts: int = 8,
    used: int = 2,
    expert_ffn: int = 96,
    **config: Any,
) -> Path:
    """A Qwen3-MoE: a router and experts in every layer, which are tensors of their own as on the hub."""
    text = _text_config("qwen3_moe", "Qwen3MoeForCausalLM", hidden, layers, heads, kv_heads, vocab, tied, dtype)
    text |= {
        "head_dim": 32,
        "attention_bias": False,
        "num_experts": experts,
        "num_experts_per_tok": used,
        "moe_intermediate_size": expert_ffn,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }
    return _save_qwen(folder, text, shards, seed, config)


def tiny_qwen2_5_vl(
    folder: Path,
    *,
    tied: bool = False,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 2,
    kv_heads: int = 1,
    vocab: int = 512,
    dtype: str = "bfloat16",
    shards: int = 1,
    seed: int = 0,
    vision_layers: int = 4,
    vision_hidden: int = 64,
    vision_intermediate: int = 300,
    **config: Any,
) -> Path:
    """A Qwen2.5-VL: full attention in every second vision block, a vision MLP that 32 does not divide, mrope."""
    text = _text_config(
        "qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration", hidden, layers, heads, kv_heads, vocab, tied, dtype
    )
    ids = {token: i + vocab - 16 - len(QWEN_SPECIAL + QWEN_ADDED) for i, token in enumerate(QWEN_SPECIAL)}
    half = hidden // heads // 2
    text |= {
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "rope_scaling": {"type": "mrope", "mrope_section": [half // 4, half // 8 * 3, half // 8 * 3]},
        "vision_config": {
            "depth": vision_layers,
            "hidden_act": "silu",
            "hidden_size": vision_hidden,
            "intermediate_size": vision_intermediate,
            "num_heads": 4,
            "in_chans": 3,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": list(range(1, vision_layers, 2)),
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
    }
    _save_qwen(folder, text, shards, seed, config)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR, indent=2))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}, indent=2))
    return folder


LLAMA_TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 512,
    "chat_template": LLAMA_TEMPLATE,
}
QWEN_TOKENIZER_CONFIG = {
    "tokenizer_class": "Qwen2Tokenizer",
    "add_prefix_space": False,
    "add_bos_token": False,
    "bos_token": None,
    "eos_token": "<|im_end|>",
    "pad_token": "<|endoftext|>",
    "unk_token": None,
    "additional_special_tokens": list(QWEN_SPECIAL[1:]),
    "clean_up_tokenization_spaces": False,
    "errors": "replace",
    "split_special_tokens": False,
    "model_max_length": 512,
    "chat_template": CHATML,
}
PREPROCESSOR = {
    "min_pixels": 3136,
    "max_pixels": 200704,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def _text_config(
    model_type: str,
    architecture: str,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocab: int,
    tied: bool,
    dtype: str,
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": hidden * 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": tied,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def _save_llama(folder: Path, config: dict[str, Any], seed: int) -> Path:
    _save_tokenizer(folder, sentencepiece_tokenizer(config["vocab_size"]), LLAMA_TOKENIZER_CONFIG)
    return _save(folder, config, 1, seed, {"bos_token_id": 1, "eos_token_id": 2, "do_sample": False})


def _save_qwen(folder: Path, text: dict[str, Any], shards: int, seed: int, config: dict[str, Any]) -> Path:
    vocab = text["vocab_size"]
    size = vocab - 16  # as in the real ones, rows at the end of the embedding belong to no token
    end_of_text = size - len(QWEN_SPECIAL + QWEN_ADDED)
    text |= {"bos_token_id": end_of_text, "eos_token_id": end_of_text + 2, "use_sliding_window": False, **config}
    generation = {
        "bos_token_id": end_of_text,
        "eos_token_id": [end_of_text + 2, end_of_text],
        "pad_token_id": end_of_text,
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
    }
    _save_tokenizer(folder, qwen_tokenizer(size), QWEN_TOKENIZER_CONFIG)
    return _save(folder, text, shards, seed, generation)


def _save(folder: Path, config: dict[str, Any], shards: int, seed: int, generation: dict[str, Any]) -> Path:
    """Write config.json, the weights that transformers draws for it, and generation_config.json."""
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))
    tensors = random_tensors(folder, seed)
    write_weights(folder, tensors, shards)
    return folder


def random_tensors(folder: Path, seed: int) -> dict[str, Any]:
    """Name -> torch tensor of a model with the config in `folder`, as the hub has them; the seed is all they depend on.

    Norms and biases are drawn too: where they stay 1 and 0, a converter that mixes them up goes unnoticed.
    """
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    architecture = getattr(transformers, config.architectures[0])
    with torch.device("meta"):
        model = architecture(config)
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, json.loads((folder / "config.json").read_text())["torch_dtype"])
    tensors = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=True)):
        values = torch.empty(parameter.shape).normal_(0.0, 0.05, generator=generator)
        tensors |= hub_tensors(name, (values + 1 if name.endswith("norm.weight") else values).to(dtype))
    return tensors


def hub_tensors(name: str, values: Any) -> dict[str, Any]:
    """The tensors that a parameter of transformers is on the hub: an expert's matrices are apart there."""
    name = _hub_name(name)
    start, joined, which = name.partition(".mlp.experts.")
    if not joined:
        return {name: values}
    tensors = {}
    for number, expert in enumerate(values):
        halves = expert.chunk(2) if which == "gate_up_proj" else (expert,)
        names = ("gate_proj", "up_proj") if which == "gate_up_proj" else (which,)
        tensors |= {f"{start}{joined}{number}.{n}.weight": v.clone() for n, v in zip(names, halves, strict=True)}
    return tensors


def _hub_name(name: str) -> str:
    """Qwen2.5-VL's names as published: `model.layers…` and `visual…`."""
    return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")


def write_weights(folder: Path, tensors: dict[str, Any], shards: int) -> None:
    """Write model.safetensors, or `shards` files and their index."""
    from safetensors.torch import save_file

    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map, names = {}, list(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i * len(names) // shards : (i + 1) * len(names) // shards]}
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _save_tokenizer(folder: Path, tokenizer_json: str, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
    added = {
        str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in json.loads(tokenizer_json)["added_tokens"]
    }
    config = config | {"added_tokens_decoder": added}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")


@cache
def _text(lines: int = 400) -> tuple[str, ...]:
    """Made-up English-looking sentences with numbers, contractions and punctuation."""
    draw = random.Random(7)
    syllables = [c + v + e for c in "bcdfglmnprst" for v in "aeiou" for e in ("", "n", "r", "st")]
    made_up = ["".join(draw.choices(syllables, k=draw.randint(1, 3))) for _ in range(300)]
    words = [*made_up, "it's", "we'll", "don't", "click", "the", "button", "and", "then"]
    return tuple(
        " ".join(draw.choice(words) for _ in range(draw.randint(4, 12))).capitalize() + f" {draw.randint(0, 999)}."
        for _ in range(lines)
    )


@cache
def qwen_tokenizer(size: int) -> str:
    """tokenizer.json of a byte-level BPE of exactly `size` tokens, Qwen's special ones last."""
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), byte_level])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    plain = size - len(QWEN_SPECIAL + QWEN_ADDED)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        _text(), trainers.BpeTrainer(vocab_size=plain, initial_alphabet=alphabet, show_progress=False)
    )
    assert tokenizer.get_vocab_size() == plain
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in QWEN_SPECIAL])
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in QWEN_ADDED])
    return tokenizer.to_str(pretty=True)


@cache
def sentencepiece_tokenizer(size: int) -> str:
    """tokenizer.json of a BPE as Llama 2's: `▁` for spaces, 256 byte tokens to fall back on, <s> in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers

    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learned.train_from_iterator(
        _text(), trainers.BpeTrainer(vocab_size=size - 256, special_tokens=special, show_progress=False)
    )
    model = json.loads(learned.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    vocab = {piece: i for i, piece in enumerate([*special, *bytes_, *pieces[len(special) :]])}
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = learned.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in special])
    assert tokenizer.get_vocab_size() == size
    return tokenizer.to_str(pretty=True)
