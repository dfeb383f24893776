from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, Tensors, build, published, same
from tests.parity.checkpoints.deepseek2 import BY_BYTES
from tests.parity.experts import SCALES, corrected
from tests.parity.families import Case

KINDS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
NAMES = (
    ("model.language_model.", "model."),
    ("model.vision_model.", "vision_model."),
    (".mlp.gate.e_score_correction_bias", ".moe.router_bias"),
    (".mlp.gate.", ".moe.gate."),
    (".mlp.experts.down_proj", ".moe.down_proj.weight"),
    (".mlp.shared_experts.", ".share_expert."),
)
TEXT: dict[str, Any] = {
    **SIZES,
    "architectures": ["Step3p5ForCausalLM"],
    "model_type": "step3p5",
    "head_dim": 16,
    "num_hidden_layers": 4,
    "num_attention_groups": 2,
    "attention_other_setting": {
        "attention_type": "sliding_attention",
        "num_attention_heads": 6,
        "num_attention_groups": 2,
        "head_dim": 16,
    },
    "layer_types": KINDS,
    "moe_layers_enum": "1,2,3",
    "moe_num_experts": 6,
    "moe_top_k": 2,
    "moe_intermediate_size": 48,
    "share_expert_dim": 80,
    "moe_router_activation": "sigmoid",
    "moe_router_scaling_factor": 3.0,
    "norm_expert_weight": True,
    "use_head_wise_attn_gate": True,
    "use_moe_router_bias": True,
    "use_qk_norm": True,
    "swiglu_limits": [0.0, 0.0, 0.5, 0.0],
    "swiglu_limits_shared": [0.0, 0.0, 0.0, 0.25],
    "partial_rotary_factors": [0.5, 1.0, 1.0, 0.5],
    "rope_theta": [5000000.0, 10000.0, 10000.0, 5000000.0],
    "rms_norm_eps": 1e-5,
    "sliding_window": 24,
    "tie_word_embeddings": False,
}
VISION = {"width": 32, "layers": 1, "heads": 2, "image_size": 28, "patch_size": 14}


def equal(folder: Path) -> Path:
    """In transformers' layout, which has a tower too."""
    text = {key: value for key, value in TEXT.items() if key not in ("architectures", "num_key_value_heads")}
    whole = {
        "architectures": ["Step3p7ForConditionalGeneration"],
        "model_type": "step3p7",
        "tie_word_embeddings": False,
        "text_config": {**text, "vocab_size": QWEN.vocab, **QWEN.config},
        "vision_config": VISION,
    }
    hub = corrected(".mlp.gate.e_score_correction_bias", hub=same)
    scales = {**SCALES, "g_proj.weight": 8, "norm.weight": 0.2}
    return build(folder, QWEN, whole, hub=hub, scales=scales)


def step(tensors: Tensors) -> Tensors:
    """The publishers' names: stacked experts, gate and up apart."""
    made = {}
    for own, values in tensors.items():
        name = own
        for old, new in NAMES:
            name = name.replace(old, new)
        if name.endswith(".mlp.experts.gate_up_proj"):
            start = name.replace(".mlp.experts.gate_up_proj", ".moe")
            made[f"{start}.gate_proj.weight"], made[f"{start}.up_proj.weight"] = values.chunk(2, 1)
        else:
            made[name] = values
    return made


def text_only(tensors: Tensors) -> Tensors:
    return {name: v for name, v in step(tensors).items() if not name.startswith(("vision_model.", "model.multi_modal"))}


SEEING: dict[str, Any] = {
    "architectures": ["Step3p7ForConditionalGeneration"],
    "model_type": "step3p7_of_its_own_code",
    "text_config": {key: value for key, value in TEXT.items() if key != "architectures"} | {"vocab_size": QWEN.vocab},
    "vision_config": VISION,
}


def with_tower(tensors: Tensors) -> Tensors:
    return {
        name.replace("model.multi_modal_projector.", "vit_large_projector."): v for name, v in step(tensors).items()
    }


CASES = {
    "": Case(lambda folder: published(equal(folder), TEXT, text_only), equal=equal, allowed=BY_BYTES),
    "3.7": Case(lambda folder: published(equal(folder), SEEING, with_tower), equal=equal, allowed=BY_BYTES),
}
