from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build, experts_apart
from tests.parity.checkpoints import kimi_linear
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.checkpoints.minimax_01 import NO_LAYOUT
from tests.parity.checkpoints.qwen3_next import WITHOUT_DRAFTS
from tests.parity.families import Case


def published(name: str, values: Any) -> Tensors:
    """As on the hub: its own names, convolutions and experts apart, a float32 bias on the choice of these."""
    import torch

    name = (
        name.replace(".forget_gate", "")
        .replace(".self_attn.", ".attention.")
        .replace("embed_tokens", "word_embeddings")
    )
    if name.endswith("conv1d.weight"):
        return {
            name.replace("conv1d", f"{x}_conv1d"): part.clone() for x, part in zip("qkv", values.chunk(3), strict=True)
        }
    if name in ("model.layers.1.attention.o_proj.weight", "model.layers.3.attention.o_proj.weight"):
        return {name.replace("o_proj", "dense"): values}
    if name.endswith("mlp.gate.weight"):
        bias = torch.linspace(-0.3, 0.3, len(values))
        return {name: values, name.replace("weight", "expert_bias"): bias}
    return experts_apart(name, values)


def bailingmoe3(folder: Path, name: str = "BailingMoeV3") -> Path:
    config = {
        **SIZES,
        "architectures": [f"{name}ForCausalLM"],
        "model_type": "bailing_hybrid",
        "first_k_dense_replace": 1,
        "gated_attention_proj_granularity_type": "head_wise",
        "head_dim": 16,
        "hidden_act": "silu",
        "kda_lower_bound": -5.0,
        "kda_safe_gate": True,
        "kv_lora_rank": 32,
        "layer_group_size": 2,
        "moe_intermediate_size": 96,
        "moe_shared_expert_intermediate_size": 96,
        "n_group": 2,
        "no_kda_lora": True,
        "norm_topk_prob": True,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "num_nextn_predict_layers": 1,
        "num_shared_experts": 1,
        "qk_nope_head_dim": 24,
        "qk_rope_head_dim": 16,
        "rms_norm_eps": 1e-6,
        "rope_theta": 6000000,
        "routed_scaling_factor": 2.5,
        "score_function": "sigmoid",
        "short_conv_kernel_size": 4,
        "tie_word_embeddings": False,
        "topk_group": 1,
        "v_head_dim": 20,
    }
    return build(folder, QWEN, config, hub=published, scales=kimi_linear.SCALES, drawn_as="BailingHybridForCausalLM")


def in_transformers(folder: Path) -> Path:
    """The same under the name of transformers' class."""
    return bailingmoe3(folder, "BailingHybrid")


CASES = {
    "": Case(bailingmoe3, allowed=BY_BYTES, upstream_options=WITHOUT_DRAFTS, equal=in_transformers),
    "of transformers": Case(in_transformers, no_parity=NO_LAYOUT),
}
