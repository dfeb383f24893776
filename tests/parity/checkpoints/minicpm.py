from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build, published
from tests.parity.families import Case

LONG = {
    "rope_type": "longrope",
    "long_factor": [2.0 + i for i in range(8)],
    "short_factor": [1.0 + i / 16 for i in range(8)],
    "original_max_position_embeddings": 64,
}


def equal(folder: Path, **words: Any) -> Path:
    """A Granite with the same factors."""
    config = {
        **SIZES,
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "attention_multiplier": 0.25,
        "embedding_multiplier": 12,
        "hidden_act": "silu",
        "logits_scaling": 2.0,
        "residual_multiplier": 1.4 / 2**0.5,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    return build(folder, LLAMA, config | words)


def minicpm(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["MiniCPMForCausalLM"],
        "model_type": "minicpm",
        "dim_model_base": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "scale_depth": 1.4,
        "scale_emb": 12,
    }
    return published(equal(folder, **words), config | words)


UNTIED = {"rope_scaling": LONG, "tie_word_embeddings": False}
FACTORS = {
    "minicpm.rope.scaling.original_context_length": "by it llama.cpp chooses among the factors",
    "minicpm.rope.scaling.attn_factor": "the source scales by it",
}
CASES = {
    "": Case(minicpm, equal=equal),
    "MiniCPM 4": Case(
        lambda folder: minicpm(folder, **UNTIED), equal=lambda folder: equal(folder, **UNTIED), allowed=FACTORS
    ),
}
