from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.parity.build import QWEN, SIZES, Tensors, build, experts_apart
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.checkpoints.lfm2 import LAYERS, SCALES
from tests.parity.families import Case


def published(name: str, values: Any) -> Tensors:
    """The experts apart, and a float32 bias on their choice, which is no parameter in transformers."""
    if name.endswith("feed_forward.gate.weight"):
        return {name: values, name.replace("gate.weight", "expert_bias"): torch.linspace(-0.3, 0.3, len(values))}
    return experts_apart(name, values, ("w1", "w3", "w2"))


def lfm2_moe(folder: Path) -> Path:
    config = {
        **SIZES,
        **LAYERS,
        "architectures": ["Lfm2MoeForCausalLM"],
        "model_type": "lfm2_moe",
        "layer_types": ["conv", "full_attention", "conv"],
        "moe_intermediate_size": 96,
        "norm_topk_prob": True,
        "num_dense_layers": 1,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "rope_theta": 1000000.0,
        "routed_scaling_factor": 1.0,
        "tie_embedding": True,
        "use_expert_bias": True,
    }
    return build(folder, QWEN, config, hub=published, scales={**SCALES, "experts.down_proj": 8})


CASES = {"": Case(lfm2_moe, allowed=BY_BYTES)}
