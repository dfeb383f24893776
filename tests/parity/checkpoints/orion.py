from __future__ import annotations

from pathlib import Path

from tests.parity.build import LLAMA, SIZES, build, published
from tests.parity.families import Case


def equal(folder: Path) -> Path:
    """A StableLM whose heads turn whole."""
    config = {
        **SIZES,
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "partial_rotary_factor": 1.0,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "use_parallel_residual": False,
        "use_qkv_bias": False,
    }
    return build(folder, LLAMA, config)


def orion(folder: Path) -> Path:
    config = {
        **SIZES,
        "architectures": ["OrionForCausalLM"],
        "model_type": "orion",
        "hidden_act": "silu",
        "max_sequence_length": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    return published(equal(folder), config)


CASES = {"": Case(orion, equal=equal)}
