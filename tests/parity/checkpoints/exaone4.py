from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.fixtures_gguf import LLAMA3_ROPE
from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case


def exaone4(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Exaone4ForCausalLM"],
        "model_type": "exaone4",
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "rope_scaling": LLAMA3_ROPE,
        "sliding_window": None,
        "sliding_window_pattern": None,
        "layer_types": ["full_attention"] * 2,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, "q_norm.weight": 3})


def windowed(folder: Path) -> Path:
    """As the 32B: every fourth of 64 layers has neither window nor positions."""
    types = ["full_attention" if layer % 4 == 3 else "sliding_attention" for layer in range(64)]
    words = {"num_hidden_layers": 64, "sliding_window": 24, "sliding_window_pattern": "LLLG", "layer_types": types}
    return exaone4(folder, hidden_size=32, head_dim=8, intermediate_size=32, tie_word_embeddings=False, **words)


CASES = {"": Case(exaone4), "64 layers, windows": Case(windowed)}
