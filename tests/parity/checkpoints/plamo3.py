from __future__ import annotations

import json
from pathlib import Path

from tests.parity.build import LLAMA, SHARP, SIZES, Tensors, build, published, renamed
from tests.parity.checkpoints.plamo2 import TOKENS, tokenizer
from tests.parity.families import Case

LAYERS = 4
NAMES = (
    ("model.layers.", "model.layers.layers."),
    ("input_layernorm", "pre_mixer_norm"),
    ("post_attention_layernorm", "post_mixer_norm"),
    ("pre_feedforward_layernorm", "pre_mlp_norm"),
    ("post_feedforward_layernorm", "post_mlp_norm"),
    ("self_attn", "mixer"),
)


def as_gemma3(folder: Path) -> Path:
    """Gemma 3's layers with another gate: its norms have an offset of 1 everywhere, its embedding is scaled."""
    config = {
        **SIZES,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": LAYERS,
        "head_dim": 24,
        "hidden_activation": "silu",
        "query_pre_attn_scalar": 24,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window": 24,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    return build(folder, LLAMA, config, scales={**SHARP, "embed_tokens.weight": 2, "q_norm.weight": 2})


def with_offsets(tensors: Tensors) -> Tensors:
    """PFN's offsets and names; q, k and v, and gate and up, in one matrix each."""
    import torch

    made = dict(tensors)
    made["model.embed_tokens.weight"] = 8 * made["model.embed_tokens.weight"]  # the root of the hidden size
    for layer in range(LAYERS):
        start = f"model.layers.{layer}"
        parts = [made.pop(f"{start}.self_attn.{x}_proj.weight") for x in "qkv"]
        made[f"{start}.self_attn.qkv_proj.weight"] = torch.cat(parts)
        halves = [made.pop(f"{start}.mlp.{x}_proj.weight") for x in ("gate", "up")]
        made[f"{start}.mlp.gate_up_proj.weight"] = torch.cat(halves)
        for name, offset in (("attention", 1 / 5), ("feedforward", 1 / 5**1.5)):
            made[f"{start}.post_{name}_layernorm.weight"] += 1 - offset
    return renamed(*NAMES)(made)


def plamo3(folder: Path) -> Path:
    config = {
        "architectures": ["Plamo3ForCausalLM"],
        "model_type": "plamo3",
        "head_dim": 24,
        "hidden_size": 64,
        "intermediate_size": 128,
        "max_position_embeddings": 512,
        "num_attention_heads": 4,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": 2,
        "pad_token_id": 3,
        "rms_norm_eps": 1e-6,
        "rope_local_theta": 10000.0,
        "rope_theta": 1000000.0,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": False,
        "window_size": 24,
    }
    published(as_gemma3(folder), config, with_offsets)
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink()
    lines = tokenizer()
    lines += [[f"w{i}", -20.0 - i, "NORMAL"] for i in range(LLAMA.vocab - len(lines))]
    (folder / "tokenizer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    named = {f"{kind}_token": f"<|plamo:{kind}|>" for kind in ("unk", "bos", "eos", "pad")}
    (folder / "tokenizer_config.json").write_text(json.dumps({**named, "add_bos_token": True}))
    return folder


def by_its_old_name(folder: Path) -> Path:
    config = json.loads((plamo3(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["PLaMo3ForCausalLM"]}))
    return folder


CASES = {
    "": Case(plamo3, equal=as_gemma3, allowed=TOKENS),
    "other name": Case(by_its_old_name, equal=as_gemma3, allowed=TOKENS),
}
