from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, Tensors, build, published
from tests.parity.families import Case

SHARED = {
    **SIZES,
    "head_dim": 32,
    "hidden_act": "gelu",
    "layer_types": ["sliding_attention", "full_attention"],
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
    },
    "sliding_window": 24,
    "tie_word_embeddings": False,
}
DENSE = {"gating": "per-head", "mlp_layer_types": ["dense", "dense"], "moe_intermediate_size": 48, "num_experts": 4}


def equal(folder: Path) -> Path:
    """A Laguna of dense layers."""
    config = {"architectures": ["LagunaForCausalLM"], "model_type": "laguna", **SHARED, **DENSE}
    return build(folder, QWEN, config, scales={**SHARP, "g_proj.weight": 12})


def as_spark(model: Any) -> None:
    """No norms on heads, and a sigmoid for a gate where Laguna has a softplus."""
    import torch

    for layer in model.model.layers:
        layer.self_attn.q_norm = layer.self_attn.k_norm = torch.nn.Identity()
        layer.self_attn.g_proj.register_forward_hook(lambda module, arguments, gate: gate.sigmoid().expm1().log())


def spark(folder: Path) -> Path:
    config = {
        **SHARED,
        "architectures": ["Spark2_5ForCausalLM"],
        "model_type": "spark2_5",
        "gate_attn_act_mode": "sigmoid",
        "headwise_attn_output_gate": True,
    }
    return published(equal(folder), config, packed)


def packed(tensors: Tensors) -> Tensors:
    import torch

    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{which}_proj")) for which in "qkv"]
        tensors[name.replace("q_proj", "q_k_v_proj")] = torch.cat(parts)
    return {name: values for name, values in tensors.items() if "_norm.weight" not in name}


CASES = {"": Case(spark, equal=equal, as_source=as_spark)}
