from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build, same
from tests.parity.families import Case
from tests.parity.layouts import inside

SCALES = {**SHARP, "router.weight": 8, "experts.down_proj": 4, "experts.gate_up_proj": 4}
ROPE = {
    "factor": 16.0,
    "high_freq_factor": 1.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 64,
    "rope_type": "llama3",
}


def llama4(folder: Path, **words: Any) -> Path:
    """As Scout, with an expert in every other layer, as Maverick."""
    config = {
        **SIZES,
        "architectures": ["Llama4ForCausalLM"],
        "model_type": "llama4_text",
        "num_hidden_layers": 4,
        "head_dim": 24,
        "intermediate_size": 48,
        "intermediate_size_mlp": 96,
        "interleave_moe_layer_step": 2,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "attention_bias": False,
        "attention_chunk_size": 8192,
        "attn_scale": 0.1,
        "attn_temperature_tuning": True,
        "floor_scale": 8192,
        "hidden_act": "silu",
        "no_rope_layers": [],
        "rms_norm_eps": 1e-5,
        "rope_scaling": ROPE,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "use_qk_norm": True,
    }
    return build(folder, QWEN, config | words, hub=same, scales=SCALES)


def with_tower(folder: Path) -> Path:
    """The text of the model that sees."""
    names = (("model.", "language_model.model."), ("lm_head", "language_model.lm_head"))
    return inside(llama4(folder), "Llama4ForConditionalGeneration", "llama4", names, "vision_model.one.weight")


CASES = {
    "": Case(llama4),
    "inside a model that sees": Case(with_tower, equal=llama4),
}
