from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build, published
from tests.parity.checkpoints.bailingmoe import fused
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

HUB = corrected(".mlp.gate.e_score_correction_bias")
NAMES = (
    ("self_attn.q_norm", "attention.query_layernorm"),
    ("self_attn.k_norm", "attention.key_layernorm"),
    ("e_score_correction_bias", "expert_bias"),
)
NUMBERS = {
    **SIZES,
    "hidden_act": "silu",
    "head_dim": 16,
    "num_hidden_layers": 3,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 48,
    "num_experts_per_tok": 2,
    "n_group": 4,
    "topk_group": 2,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "rms_norm_eps": 1e-6,
    "rope_theta": 600000,
    "tie_word_embeddings": False,
}
CONFIG = {
    **NUMBERS,
    "architectures": ["BailingMoeV2ForCausalLM"],
    "model_type": "bailing_moe",
    "num_experts": 8,
    "num_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 48,
    "moe_router_enable_expert_bias": True,
    "partial_rotary_factor": 0.5,
    "score_function": "sigmoid",
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
}
SARVAM = {**CONFIG, "architectures": ["SarvamMoEForCausalLM"], "model_type": "sarvam_moe"}


def equal(turning: float) -> Callable[[Path], Path]:
    """The same model as a GLM-4.5."""
    config: dict[str, Any] = {
        **NUMBERS,
        "architectures": ["Glm4MoeForCausalLM"],
        "model_type": "glm4_moe",
        "attention_bias": False,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_nextn_predict_layers": 0,
        "partial_rotary_factor": turning,
        "use_qk_norm": True,
    }
    return lambda folder: build(folder, QWEN, config, hub=HUB, scales=SCALES)


def ling(tensors: Tensors) -> Tensors:
    made = fused(tensors)
    for old, new in NAMES:
        made = {name.replace(old, new): values for name, values in made.items()}
    return made


def off_centre(tensors: Tensors) -> Tensors:
    """The bias on the choice of experts is Sarvam's with any number added to all of it; its mean needs no rounding."""

    def moved(bias: Any) -> Any:
        centred = (bias * 1024).round() / 1024
        return centred - centred.mean() + 0.625

    return {name: moved(values) if name.endswith("expert_bias") else values for name, values in ling(tensors).items()}


def sarvam(folder: Path, **words: Any) -> Path:
    whole = {key: value for key, value in (SARVAM | words).items() if key != "partial_rotary_factor"}
    return published(equal(1.0)(folder), whole, off_centre)


CASES = {
    "": Case(lambda folder: published(equal(0.5)(folder), CONFIG, ling), equal=equal(0.5), allowed=BY_BYTES),
    "Sarvam": Case(sarvam, equal=equal(1.0), allowed=BY_BYTES),
    "Sarvam, its class by module": Case(
        lambda folder: sarvam(folder, architectures=["modeling_sarvam_moe.SarvamMoEForCausalLM"]),
        equal=equal(1.0),
        allowed=BY_BYTES,
    ),
}
