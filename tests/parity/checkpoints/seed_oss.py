from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case


def seed_oss(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["SeedOssForCausalLM"],
        "model_type": "seed_oss",
        "attention_bias": True,
        "attention_out_bias": False,
        "head_dim": 32,
        "hidden_act": "silu",
        "mlp_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"rope_type": "default"},
        "rope_theta": 1e7,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words)


CASES = {
    "": Case(seed_oss),
    "no biases, tied": Case(lambda folder: seed_oss(folder, attention_bias=False, tie_word_embeddings=True)),
}
