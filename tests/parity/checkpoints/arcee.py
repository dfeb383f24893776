from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def arcee(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["ArceeForCausalLM"],
        "model_type": "arcee",
        "attention_bias": False,
        "head_dim": 32,
        "hidden_act": "relu2",
        "mlp_bias": False,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "mlp.up_proj.weight": 4})


YARN = {  # as AFM-4.5B's, with an mscale that counts for nothing by itself
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 0.7,
}
CASES = {
    "": Case(arcee),
    "yarn": Case(lambda folder: arcee(folder, rope_scaling=YARN)),
}
