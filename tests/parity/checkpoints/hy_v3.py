from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected, renamed
from tests.parity.families import Case

NAMES = ((".mlp.gate.", ".mlp.router.gate."), (".mlp.shared_experts.", ".mlp.shared_mlp."))
HUB = corrected(".mlp.expert_bias", hub=renamed(tiny.hub_tensors, *NAMES))


def hy_v3(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["HYV3ForCausalLM"],
        "model_type": "hy_v3",
        "hidden_act": "silu",
        "head_dim": 24,
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 48,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_shared_experts": 2,
        "qk_norm": True,
        "route_norm": True,
        "router_scaling_factor": 2.826,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 11158840.0},
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, hub=HUB, scales=SCALES)


CASES = {"": Case(hy_v3, allowed=BY_BYTES)}
