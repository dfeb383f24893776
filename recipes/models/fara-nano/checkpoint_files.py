"""The files of a Qwen2.5-VL checkpoint as the hub has them: configs, chat template, tokenizer, weights."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data import SIDE
from prose import SYSTEM

VOCAB_ROWS = 2560  # rows of the embedding: more than there are tokens, as in the large models
BPE_TOKENS = 2490  # the 256 bytes and what the merges make of them
BYTE_PATTERN = (  # how Qwen2 cuts text before merging: digits stand alone, so coordinates are digit by digit
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
ADDED = [
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
]  # recognised in text like the special ones, but not skipped when decoding
TOKEN_ID = {text: BPE_TOKENS + i for i, text in enumerate(SPECIAL + ADDED)}

# One turn after the other; tools are announced at the end of the system turn, whichever way that turn came about.
CHAT_TEMPLATE = (
    """{%- set ns = namespace(tools='') -%}
{%- if tools -%}
  {%- set ns.tools = '\\n\\n# Tools\\n\\nThese functions can be called, one JSON schema a line:\\n<tools>' -%}
  {%- for tool in tools -%}
    {%- set ns.tools = ns.tools + '\\n' + (tool | tojson) -%}
  {%- endfor -%}
  {%- set ns.tools = ns.tools + '\\n</tools>\\n\\nTo call one, answer with a JSON object inside tool_call tags:\\n'
    + '<tool_call>\\n{"name": <function name>, "arguments": <object of arguments>}\\n</tool_call>' -%}
{%- endif -%}
{%- if messages[0]['role'] != 'system' -%}
  {{- '<|im_start|>system\\n"""
    + SYSTEM
    + """' + ns.tools + '<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- if message['role'] == 'tool' -%}
    {{- '<|im_start|>user\\n<tool_response>\\n' -}}
  {%- else -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
  {%- endif -%}
  {%- if message['content'] is string -%}
    {{- message['content'] -}}
  {%- elif message['content'] -%}
    {%- for part in message['content'] -%}
      {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
        {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
      {%- elif part['type'] == 'video' or 'video' in part -%}
        {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
      {%- elif 'text' in part -%}
        {{- part['text'] -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['tool_calls'] -%}
    {%- for call in message['tool_calls'] -%}
      {%- set function = call['function'] if call['function'] else call -%}
      {%- if message['content'] or not loop.first -%}{{- '\\n' -}}{%- endif -%}
      {{- '<tool_call>\\n{"name": "' + function['name'] + '", "arguments": ' -}}
      {{- function['arguments'] if function['arguments'] is string else (function['arguments'] | tojson) -}}
      {{- '}\\n</tool_call>' -}}
    {%- endfor -%}
  {%- endif -%}
  {%- if message['role'] == 'system' and loop.first -%}
    {{- ns.tools -}}
  {%- elif message['role'] == 'tool' -%}
    {{- '\\n</tool_response>' -}}
  {%- endif -%}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
)

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "attention_dropout": 0.0,
    "bos_token_id": TOKEN_ID["<|endoftext|>"],
    "eos_token_id": TOKEN_ID["<|im_end|>"],
    "vision_start_token_id": TOKEN_ID["<|vision_start|>"],
    "vision_end_token_id": TOKEN_ID["<|vision_end|>"],
    "vision_token_id": TOKEN_ID["<|vision_pad|>"],
    "image_token_id": TOKEN_ID["<|image_pad|>"],
    "video_token_id": TOKEN_ID["<|video_pad|>"],
    "hidden_act": "silu",
    "hidden_size": 256,
    "initializer_range": 0.02,
    "intermediate_size": 768,
    "max_position_embeddings": 2048,
    "max_window_layers": 4,
    "model_type": "qwen2_5_vl",
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    # Small, so that the slow frequencies, which mrope gives to the columns, still turn within eight columns.
    "rope_theta": 100.0,
    "sliding_window": 2048,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.49.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vision_config": {
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 128,
        "intermediate_size": 340,
        "num_heads": 4,
        "in_chans": 3,
        "out_hidden_size": 256,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "spatial_patch_size": 14,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
        "temporal_patch_size": 2,
        "model_type": "qwen2_5_vl",
    },
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "vocab_size": VOCAB_ROWS,
}

GENERATION: dict[str, Any] = {
    "bos_token_id": TOKEN_ID["<|endoftext|>"],
    "do_sample": True,
    "eos_token_id": [TOKEN_ID["<|im_end|>"], TOKEN_ID["<|endoftext|>"]],
    "pad_token_id": TOKEN_ID["<|endoftext|>"],
    "repetition_penalty": 1.0,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.001,
    "transformers_version": "4.49.0",
}

PREPROCESSOR: dict[str, Any] = {
    "min_pixels": 56 * 56,
    "max_pixels": 4 * SIDE * SIDE,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
}


def train_tokenizer(texts: Iterable[str]) -> Tokenizer:
    """A byte-level BPE of `BPE_TOKENS` tokens, then Qwen's special tokens in Qwen's order."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(BYTE_PATTERN), "isolated", invert=False)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_TOKENS, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() != BPE_TOKENS:
        raise ValueError(f"the text gives {tokenizer.get_vocab_size()} tokens, {BPE_TOKENS} wanted: give it more text")
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in ADDED])
    return tokenizer


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """tokenizer.json, vocab.json, merges.txt and tokenizer_config.json in `folder`."""
    content = json.loads(tokenizer.to_str())
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["model"]["merges"]]
    content["model"]["merges"] = merges  # "a b", as the published files have them
    _dump(folder / "tokenizer.json", content)
    _dump(folder / "vocab.json", content["model"]["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    flags = ("content", "lstrip", "normalized", "rstrip", "single_word", "special")
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {flag: t[flag] for flag in flags} for t in content["added_tokens"]},
        "additional_special_tokens": SPECIAL[1:],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": CONFIG["max_position_embeddings"],
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    _dump(folder / "tokenizer_config.json", config)


def write_configs(folder: Path) -> None:
    """Every JSON beside the weights that is not the tokenizer's."""
    _dump(folder / "config.json", CONFIG)
    _dump(folder / "generation_config.json", GENERATION)
    _dump(folder / "preprocessor_config.json", PREPROCESSOR)
    _dump(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})


def write_weights(model: torch.nn.Module, folder: Path) -> None:
    """model.safetensors in bf16 under the published names: `model.layers…`, `visual…`, `lm_head.weight`."""
    tensors = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.to(torch.bfloat16)
        for name, value in model.state_dict().items()
    }
    partial = folder / "model.safetensors.partial"
    save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata={"format": "pt"})
    partial.replace(folder / "model.safetensors")
