from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case


def phi(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["PhiForCausalLM"],
        "model_type": "phi",
        "intermediate_size": 256,
        "num_key_value_heads": 4,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words)


CASES = {"": Case(phi)}
