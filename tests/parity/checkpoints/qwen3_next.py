from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

DELTA_NET = {
    "head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 16,
}
EXPERTS = {
    "moe_intermediate_size": 96,
    "num_experts": 6,
    "num_experts_per_tok": 2,
    "shared_expert_intermediate_size": 160,
}
SCALES = {
    **SHARP,
    "conv1d.weight": 8,
    "A_log": 12,
    "dt_bias": 12,
    "in_proj_a.weight": 8,
    "in_proj_b.weight": 8,
    "in_proj_ba.weight": 8,
    "mlp.gate.weight": 8,
    "shared_expert_gate.weight": 8,
    "experts.down_proj": 8,
}
WITHOUT_DRAFTS = ("--no-mtp",)
"""Upstream's converter puts the layers that guess tokens into the same file, unless it is told not to."""


def qwen3_next(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        **DELTA_NET,
        **EXPERTS,
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "full_attention_interval": 4,
        "hidden_act": "silu",
        "mlp_only_layers": [],
        "norm_topk_prob": True,
        "partial_rotary_factor": 0.25,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000000,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


CASES = {"": Case(qwen3_next, upstream_options=WITHOUT_DRAFTS)}
