from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build, published
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

HUB = corrected(".mlp.e_score_correction_bias")


CONFIG: dict[str, Any] = {
    **SIZES,
    "architectures": ["ExaoneMoeForCausalLM"],
    "model_type": "exaone_moe",
    "hidden_act": "silu",
    "head_dim": 24,
    "num_hidden_layers": 5,
    "first_k_dense_replace": 1,
    "mlp_layer_types": ["dense"] + ["sparse"] * 4,
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "num_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "layer_types": ["sliding_attention"] * 3 + ["full_attention", "sliding_attention"],
    "sliding_window": 24,
    "sliding_window_pattern": "LLLG",
    "num_nextn_predict_layers": 0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
}


def exaone_moe(folder: Path) -> Path:
    """Five layers, the fourth without a window."""
    return build(folder, QWEN, CONFIG, hub=HUB, scales=SCALES)


NO_DRAFTS = {"exaone-moe.nextn_predict_layers": "layers that predict tokens further ahead are left out"}
FIRST = {"architectures": ["ExaoneMoEForCausalLM"], "model_type": "exaone_moe_of_its_own_code"}
ALLOWED = BY_BYTES | NO_DRAFTS
CASES = {
    "": Case(exaone_moe, allowed=ALLOWED),
    "as it was first called": Case(
        lambda folder: published(exaone_moe(folder), CONFIG | FIRST), equal=exaone_moe, allowed=ALLOWED
    ),
}
