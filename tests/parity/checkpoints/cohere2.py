from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.cohere import SCALES
from tests.parity.families import Case


def cohere2(folder: Path, **words: Any) -> Path:
    """Five layers, the fourth without window and positions."""
    config = {
        **SIZES,
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "num_hidden_layers": 5,
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.25,
        "rope_theta": 50000.0,
        "rotary_pct": 1.0,
        "sliding_window": 24,
        "sliding_window_pattern": 4,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


CASES = {"": Case(cohere2)}
