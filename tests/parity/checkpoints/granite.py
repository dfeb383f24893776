from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def granite(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GraniteForCausalLM"],
        "model_type": "granite",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_multiplier": 0.15,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 8.0,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "embed_tokens.weight": 4})


CASES = {
    "": Case(granite),
    "biases, untied": Case(
        lambda folder: granite(folder, attention_bias=True, mlp_bias=True, tie_word_embeddings=False)
    ),
}
