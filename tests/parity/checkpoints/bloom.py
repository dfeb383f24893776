from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, Tensors, build
from tests.parity.families import Case


def bloom(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "apply_residual_connection_post_layernorm": False,
        "layer_norm_epsilon": 1e-5,
        "n_embed": 64,
        "n_layer": 2,
        "num_attention_heads": 4,
        "seq_length": 2048,
    }
    return build(folder, QWEN, config | words, hub=as_published, scales={"query_key_value.weight": 8})


def as_published(name: str, values: Any) -> Tensors:
    """The names without "transformer." in front."""
    return {name.removeprefix("transformer."): values}


CASES = {
    "": Case(bloom),
    "heads no power of two, a head of its own": Case(
        lambda folder: bloom(folder, n_embed=96, num_attention_heads=6, tie_word_embeddings=False)
    ),
}
