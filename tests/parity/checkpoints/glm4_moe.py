from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import SHARP, SIZES, build
from tests.parity.checkpoints.deepseek2 import BY_BYTES, GLM_ROLES, GLM_WORDS, with_correction
from tests.parity.families import Case


def glm4_moe(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "hidden_act": "silu",
        "num_hidden_layers": 3,
        "head_dim": 24,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "use_qk_norm": False,
        "first_k_dense_replace": 1,
        "moe_intermediate_size": 48,
        "n_routed_experts": 6,
        "n_shared_experts": 1,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.5,
        "num_nextn_predict_layers": 0,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
    }
    scales = {**SHARP, "q_norm.weight": 6, "_proj.bias": 4, "mlp.gate.weight": 8, "experts.down_proj": 4}
    return build(folder, GLM_WORDS, config | words, hub=with_correction, scales=scales)


ALLOWED = {
    **GLM_ROLES,
    **BY_BYTES,
    "glm4moe.nextn_predict_layers": "layers that predict tokens further ahead are left out",
}

CASES = {
    "": Case(glm4_moe, allowed=ALLOWED),
    "norms on queries and keys": Case(
        lambda folder: glm4_moe(folder, use_qk_norm=True, attention_bias=False, routed_scaling_factor=2.5),
        allowed=ALLOWED,
    ),
}
