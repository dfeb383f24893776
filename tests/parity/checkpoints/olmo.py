from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case


def olmo(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["OlmoForCausalLM"],
        "model_type": "olmo",
        "hidden_act": "silu",
        "rope_theta": 10000.0,
        "attention_bias": False,
        "clip_qkv": None,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words)


CASES = {
    "": Case(olmo),
    "clipped, tied": Case(lambda folder: olmo(folder, clip_qkv=2.0, tie_word_embeddings=True)),
}
