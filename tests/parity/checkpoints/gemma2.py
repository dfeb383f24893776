from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case


def gemma2(folder: Path, **words: Any) -> Path:
    """A window shorter than the text, caps that bite, heads of a width that is not hidden / heads."""
    config = {
        **SIZES,
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "head_dim": 24,
        "query_pre_attn_scalar": 24,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_act": "gelu_pytorch_tanh",
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
        "sliding_window": 24,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
    }
    return build(folder, LLAMA, config | words)


CASES = {"": Case(gemma2)}
