from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, SIZES, build
from tests.parity.families import Case

LINEAR = {"rope_type": "linear", "factor": 8.0}
PATTERN = {"gemma3.attention.sliding_window_pattern": "upstream takes every sixth layer for granted"}


def gemma3(folder: Path, **words: Any) -> Path:
    """Seven layers, the sixth without a window; heads of a width that is not hidden / heads."""
    config = {
        **SIZES,
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "sliding_window": 24,
        "sliding_window_pattern": 6,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
    }
    return build(folder, LLAMA, config | words, scales={**SHARP, "q_norm.weight": 2})


CASES = {
    "": Case(gemma3),
    "linear scaling": Case(lambda folder: gemma3(folder, rope_scaling=LINEAR)),
    "capped logits, another pattern": Case(
        lambda folder: gemma3(folder, num_hidden_layers=3, sliding_window_pattern=2, final_logit_softcapping=3.0),
        allowed=PATTERN,
    ),
}
