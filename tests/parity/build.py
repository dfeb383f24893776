"""Tiny checkpoints in the layout of the hub, with weights that make every part of a model matter.

    build(folder, LLAMA, config)                  a tokenizer, config.json, weights drawn for transformers' own class
    build(folder, QWEN, config, hub=..., scales={"q_proj.weight": 12})

Equal arguments give equal files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tiny

Tensors = dict[str, Any]
Hub = Callable[[str, Any], Tensors]
"""From a parameter of transformers (name, torch tensor) to the tensors it is on the hub."""


@dataclass(frozen=True)
class Words:
    """A tokenizer and what its model's config says of it."""

    vocab: int  # rows of the embedding
    tokenizer: Callable[[], str]  # tokenizer.json
    tokenizer_config: Mapping[str, Any]
    config: Mapping[str, Any]


LLAMA = Words(
    384,
    lambda: tiny.sentencepiece_tokenizer(384),
    tiny.LLAMA_TOKENIZER_CONFIG,
    {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
)
"""Sentencepiece with byte fallback, <s> in front."""

QWEN = Words(
    512,
    lambda: tiny.qwen_tokenizer(496),
    tiny.QWEN_TOKENIZER_CONFIG,
    {"bos_token_id": 480, "eos_token_id": 482, "pad_token_id": 480},
)
"""Byte-level BPE; 16 rows of the embedding belong to no token."""

SHARP: Mapping[str, float] = {
    "q_proj.weight": 12,
    "k_proj.weight": 12,
    "embed_tokens.weight": 12,
}
"""Random weights attend to everything alike, and wrong positions go unnoticed; these do not.
Endings of names -> factor."""

TINY_SHARP = {**SHARP, "q_norm.weight": 12}

SIZES: Mapping[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "torch_dtype": "bfloat16",
}
"""What most configs call their sizes."""


def same(name: str, values: Any) -> Tensors:
    """The tensor as transformers has it."""
    return {name: values}


def build(
    folder: Path,
    words: Words,
    config: Mapping[str, Any],
    *,
    hub: Hub = tiny.hub_tensors,
    scales: Mapping[str, float] = SHARP,
) -> Path:
    """Write a checkpoint whose config.json is `config` and what the tokenizer adds to it; returns its folder.

    Every tensor is drawn around 0, those called norm or ln_… .weight around 1; then `scales`.
    """
    tiny._save_tokenizer(folder, words.tokenizer(), dict(words.tokenizer_config))
    whole = {"torch_dtype": "bfloat16", "vocab_size": words.vocab, **words.config, **config}
    (folder / "config.json").write_text(json.dumps(whole, indent=2))
    tiny.write_weights(folder, draw(folder, hub, scales), 1)
    return folder


def sharpened(folder: Path) -> Path:
    """A folder of tests.tiny, its weights times SHARP's factors."""
    from tests.fixtures_gguf import edit_weights

    def sharpen(tensors: Tensors) -> None:
        for name in tensors:
            tensors[name] *= _factor(name, TINY_SHARP)

    edit_weights(folder, sharpen)
    return folder


def draw(folder: Path, hub: Hub, scales: Mapping[str, float], seed: int = 0) -> Tensors:
    """Name on the hub -> torch tensor, of a model with the config in `folder`."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    given = json.loads((folder / "config.json").read_text())
    with torch.device("meta"):
        model = getattr(transformers, given["architectures"][0])(config)
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, given["torch_dtype"])
    tensors: Tensors = {}
    for name, parameter in sorted(model.named_parameters(remove_duplicate=True)):
        values = torch.empty(parameter.shape).normal_(0.0, 0.05, generator=generator)
        values = values + 1 if _is_norm(name) else values
        tensors |= hub(name, (values * _factor(name, scales)).to(dtype))
    return {name: values.contiguous() for name, values in tensors.items()}


def _factor(name: str, scales: Mapping[str, float]) -> float:
    return next((factor for ending, factor in scales.items() if name.endswith(ending)), 1)


def _is_norm(name: str) -> bool:
    *_, module, kind = name.split(".")
    return kind == "weight" and ("norm" in module or module.startswith("ln_"))
