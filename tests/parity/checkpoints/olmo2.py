from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "attention_factor": 1.2079441541679836,
}


def olmo2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Olmo2ForCausalLM"],
        "model_type": "olmo2",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 500000,
        "attention_bias": False,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "q_norm.weight": 3, "k_norm.weight": 3})


def olmo3(folder: Path, **words: Any) -> Path:
    """Five layers, the fourth without a window; YaRN in that one only."""
    config = {
        "architectures": ["Olmo3ForCausalLM"],
        "model_type": "olmo3",
        "num_hidden_layers": 5,
        "sliding_window": 24,
        "layer_types": ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"],
    }
    return olmo2(folder, **config | words)


CASES = {
    "": Case(olmo2),
    "olmo 3": Case(olmo3),
    "olmo 3, yarn": Case(lambda folder: olmo3(folder, rope_scaling=YARN)),
}
