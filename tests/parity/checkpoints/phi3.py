from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case

NAMED = {"phi3.rope.scaling.type": "upstream leaves the name of the scaling out; llama.cpp knows it by its tensors"}


def phi3(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Phi3ForCausalLM"],
        "model_type": "phi3",
        "hidden_act": "silu",
        "original_max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
    }
    return build(folder, LLAMA, config | words, scales={"qkv_proj.weight": 12, "embed_tokens.weight": 12})


def long(folder: Path, original: int, turning: int = 16, **words: Any) -> Path:
    """With factors for texts longer than `original` tokens, `turning` values of each head turn."""
    half = range(turning // 2)
    scaling = {
        "type": "longrope",
        "short_factor": [1.0 + 0.25 * i for i in half],
        "long_factor": [1.0 + 2.0 * i for i in half],
    }
    words = {"max_position_embeddings": 4096, "original_max_position_embeddings": original, **words}
    return phi3(folder, rope_scaling=scaling, sliding_window=None, **words)


CASES = {
    "": Case(phi3),
    "longrope, long": Case(lambda folder: long(folder, 64), allowed=NAMED),
    "longrope, short": Case(lambda folder: long(folder, 1024), allowed=NAMED),
    "partial rotary, tied": Case(
        lambda folder: long(folder, 64, 12, partial_rotary_factor=0.75, tie_word_embeddings=True), allowed=NAMED
    ),
}
