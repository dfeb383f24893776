from __future__ import annotations

import json
from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, build, published
from tests.parity.families import Case


def as_qwen2(folder: Path) -> Path:
    """A Qwen2 that looks ahead."""
    config = {
        **SIZES,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_act": "silu",
        "is_causal": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
    }
    return build(folder, QWEN, config, scales={**SHARP, "_proj.bias": 4})


def dream(folder: Path) -> Path:
    config = json.loads((as_qwen2(folder) / "config.json").read_text())
    del config["is_causal"]
    return published(folder, {**config, "architectures": ["DreamModel"], "model_type": "Dream", "mask_token_id": 495})


CASES = {"": Case(dream, equal=as_qwen2)}
