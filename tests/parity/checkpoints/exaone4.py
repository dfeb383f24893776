from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import LLAMA3_ROPE
from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def exaone4(folder: Path, sharp: float = 8, **words: Any) -> Path:
    """As the 1.2B."""
    config = {
        **SIZES,
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        "head_dim": 16,
        "hidden_act": "silu",
        "layer_types": ["full_attention"] * 2,
        "rms_norm_eps": 1e-5,
        "rope_scaling": LLAMA3_ROPE,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "sliding_window_pattern": None,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "q_norm.weight": sharp})


def with_windows(folder: Path) -> Path:
    """As the 32B, which llama.cpp knows by its 64 layers."""
    words = {
        "intermediate_size": 32,
        "layer_types": [*["sliding_attention"] * 3, "full_attention"] * 16,
        "num_hidden_layers": 64,
        "sliding_window": 24,
        "sliding_window_pattern": "LLLG",
        "tie_word_embeddings": False,
    }
    return exaone4(folder, 3, **words)


CASES = {"": Case(exaone4), "windows": Case(with_windows)}
