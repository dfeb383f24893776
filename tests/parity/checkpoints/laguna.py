from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, renamed
from tests.parity.families import Case

HUB = renamed(
    tiny.hub_tensors,
    ("mlp.gate.e_score_correction_bias", "mlp.experts.e_score_correction_bias"),
    (".mlp.shared_experts.", ".mlp.shared_expert."),
)
FULL = {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1}


def laguna(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["LagunaForCausalLM"],
        "model_type": "laguna",
        "attention_bias": False,
        "gating": "per-head",
        "head_dim": 24,
        "hidden_act": "silu",
        "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
        "mlp_layer_types": ["dense", *["sparse"] * 4],
        "moe_intermediate_size": 48,
        "moe_routed_scaling_factor": 2.5,
        "num_attention_heads_per_layer": [4, 6, 6, 6, 4],
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 5,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "full_attention": {**FULL, **YARN},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
        },
        "shared_expert_intermediate_size": 80,
        "sliding_window": 24,
        "tie_word_embeddings": False,
    }
    scales = {"e_score_correction_bias": 2, **SCALES, "g_proj.weight": 8}
    return build(folder, QWEN, config | words, hub=HUB, scales=scales)


WHOLE = {
    "gating": "per-element",
    "num_hidden_layers": 2,
    "layer_types": ["full_attention"] * 2,
    "mlp_layer_types": ["dense", "sparse"],
    "num_attention_heads_per_layer": None,
    "rope_parameters": {"full_attention": FULL},
    "sliding_window": 0,
}
CASES = {
    "": Case(laguna, allowed=BY_BYTES),
    "no windows, a gate for each value": Case(lambda folder: laguna(folder, **WHOLE), allowed=BY_BYTES),
}
