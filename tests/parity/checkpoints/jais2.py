from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def jais2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Jais2ForCausalLM"],
        "model_type": "jais2",
        "attention_bias": True,
        "head_dim": 16,
        "hidden_act": "relu2",
        "layer_norm_eps": 1e-5,
        "mlp_bias": True,
        "num_key_value_heads": 4,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "_proj.bias": 4})


CASES = {"": Case(jais2)}
