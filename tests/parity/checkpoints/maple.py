from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Layout, build, published
from tests.parity.experts import SCALES
from tests.parity.families import Case

NUMBERS: dict[str, Any] = {
    **SIZES,
    "attention_bias": False,
    "hidden_act": "silu",
    "head_dim": 24,
    "moe_intermediate_size": 48,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
CONFIG = {
    **NUMBERS,
    "architectures": ["MapleForCausalLM"],
    "model_type": "maple",
    "layer_types": ["sliding_attention", "full_attention"],
    "nope_on_global_attention": True,
    "num_shared_experts": 0,
    "partial_rotary_factor": 0.5,
    "sliding_window": 24,
}
NO_LOGITS = "transformers has no class that computes it; its own code is in the checkpoint, and is not run"


def as_qwen(config: dict[str, Any], layout: Layout = lambda tensors: tensors, **words: Any) -> Callable[[Path], Path]:
    """Tensors drawn for a Qwen3-MoE, published with another config."""
    drawn = {**NUMBERS, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", **words}
    return lambda folder: published(build(folder, QWEN, drawn, scales=SCALES), config, layout)


CASES = {"": Case(as_qwen(CONFIG), no_logits=NO_LOGITS)}
