from __future__ import annotations

import json
from pathlib import Path

from tests.parity.build import QWEN, SHARP, SIZES, build, published
from tests.parity.families import Case


def as_qwen3_moe(folder: Path) -> Path:
    """A Qwen3-MoE that looks ahead."""
    config = {
        **SIZES,
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "decoder_sparse_step": 1,
        "head_dim": 24,
        "hidden_act": "silu",
        "is_causal": False,
        "mlp_only_layers": [],
        "moe_intermediate_size": 48,
        "norm_topk_prob": True,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config, scales={**SHARP, "q_norm.weight": 3, "gate.weight": 8})


def rnd1(folder: Path) -> Path:
    config = json.loads((as_qwen3_moe(folder) / "config.json").read_text())
    del config["is_causal"]
    return published(folder, {**config, "architectures": ["RND1"], "model_type": "rnd1", "mask_token_id": 495})


CASES = {"": Case(rnd1, equal=as_qwen3_moe)}
