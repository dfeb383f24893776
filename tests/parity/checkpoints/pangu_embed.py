from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import SIZES, as_llama, published
from tests.parity.families import Case


def equal(folder: Path, **words: Any) -> Path:
    return as_llama(folder, attention_bias=True, **words)


def pangu(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["PanguEmbeddedForCausalLM"],
        "model_type": "PanguEmbedded",
        "bias": True,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(equal(folder, **words), config | words)


TIED = {"tie_word_embeddings": True, "head_dim": 32}
CASES = {
    "": Case(pangu, equal=equal),
    "tied, heads of their own size": Case(
        lambda folder: pangu(folder, **TIED), equal=lambda folder: equal(folder, **TIED)
    ),
}
