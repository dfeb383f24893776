from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, Tensors, build, published
from tests.parity.families import Case


def bloom(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "torch_dtype": "bfloat16",
        "apply_residual_connection_post_layernorm": False,
        "layer_norm_epsilon": 1e-5,
        "n_embed": 64,
        "n_head": 4,
        "n_layer": 2,
        "seq_length": 512,
    }
    return build(folder, QWEN, config | words, hub=as_published, scales={"query_key_value.weight": 6})


def as_published(name: str, values: Any) -> Tensors:
    """BigScience's own files: no "transformer." in front."""
    return {name.removeprefix("transformer."): values}


def base(folder: Path) -> Path:
    """A checkpoint of the base model's class, as BigScience's largest is."""
    config = json.loads((bloom(folder) / "config.json").read_text())
    return published(folder, {**config, "architectures": ["BloomModel"]})


CASES = {
    "": Case(bloom),
    "the base model": Case(base, equal=bloom),
    "6 heads": Case(lambda folder: bloom(folder, n_embed=96, n_head=6)),
}
