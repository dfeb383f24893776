from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

HUB = corrected(".mlp.expert_bias", ".mlp.router.gate.weight")


def afmoe(folder: Path, **words: Any) -> Path:
    """Five layers, the fourth without a window."""
    config = {
        **SIZES,
        "architectures": ["AfmoeForCausalLM"],
        "model_type": "afmoe",
        "hidden_act": "silu",
        "head_dim": 24,
        "num_hidden_layers": 5,
        "num_dense_layers": 2,
        "moe_intermediate_size": 48,
        "num_experts": 6,
        "num_experts_per_tok": 2,
        "num_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "global_attn_every_n_layers": 4,
        "sliding_window": 24,
        "mup_enabled": True,
        "score_func": "sigmoid",
        "route_norm": True,
        "route_scale": 2.826,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    }
    scales = {**SCALES, "embed_tokens.weight": 2, "self_attn.gate_proj.weight": 8}
    return build(folder, QWEN, config | words, hub=HUB, scales=scales)


CASES = {"": Case(afmoe, allowed=BY_BYTES)}
