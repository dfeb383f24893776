from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, Tensors, build, experts_apart
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.families import Case

SCALES = {
    **SHARP,
    "kv_a_proj_with_mqa.weight": 4,
    "kv_b_proj.weight": 8,
    "conv1d.weight": 8,
    "A_log": 12,
    "dt_bias": 12,
    "b_proj.weight": 8,
    "mlp.gate.weight": 8,
    "experts.down_proj": 4,
}


def published(name: str, values: Any) -> Tensors:
    """As on the hub: convolutions and experts apart, a float32 bias on the choice of these."""
    import torch

    name = name.replace(".forget_gate", "")
    if name.endswith("conv1d.weight"):
        return {
            name.replace("conv1d", f"{x}_conv1d"): part.clone() for x, part in zip("qkv", values.chunk(3), strict=True)
        }
    if any(word in name for word in (".experts.", "mlp.gate.", "shared_experts")):
        name = name.replace(".mlp.", ".block_sparse_moe.")
    if name.endswith("moe.gate.weight"):
        bias = torch.linspace(-0.3, 0.3, len(values))
        return {name: values, name.replace("weight", "e_score_correction_bias"): bias}
    return experts_apart(name, values, ("w1", "w3", "w2"))


def kimi_linear(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["KimiLinearForCausalLM"],
        "model_type": "kimi_linear",
        "first_k_dense_replace": 1,
        "head_dim": 16,
        "hidden_act": "silu",
        "kv_lora_rank": 32,
        "linear_attn_config": {
            "full_attn_layers": [2],
            "head_dim": 16,
            "kda_layers": [1, 3],
            "num_heads": 4,
            "short_conv_kernel_size": 4,
        },
        "model_max_length": 512,
        "moe_intermediate_size": 96,
        "moe_layer_freq": 1,
        "moe_renormalize": True,
        "moe_router_activation_func": "sigmoid",
        "num_expert_group": 1,
        "num_experts": 6,
        "num_experts_per_token": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 4,
        "num_shared_experts": 1,
        "q_lora_rank": None,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "routed_scaling_factor": 2.446,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "v_head_dim": 20,
    }
    return build(folder, QWEN, config | words, hub=published, scales=SCALES, drawn_as="KimiLinearForCausalLM")


def by_kinds(folder: Path) -> Path:
    """As transformers 5 writes its config, under the class that upstream knows besides."""
    kinds = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
    return kimi_linear(folder, architectures=["KimiLinearModel"], **kinds)


CASES = {"": Case(kimi_linear, allowed=BY_BYTES), "by kinds": Case(by_kinds, allowed=BY_BYTES)}
