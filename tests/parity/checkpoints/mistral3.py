from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case

YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 32,  # so that 96 tokens reach the third step of what queries grow by
    "max_position_embeddings": 512,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def ministral3(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Ministral3ForCausalLM"],
        "model_type": "ministral3",
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": YARN,
        "sliding_window": None,
        "tie_word_embeddings": False,
    }
    return build(folder, LLAMA, config | words)


UNEQUAL = {**YARN, "beta_fast": 4.0, "mscale_all_dim": 0.5}
CASES = {
    "": Case(ministral3),
    "tied, other words of YaRN": Case(
        lambda folder: ministral3(folder, tie_word_embeddings=True, rope_parameters=UNEQUAL)
    ),
}
