from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, Tensors, build
from tests.parity.families import Case

NAMES = {
    "experts.gate_up_proj": "input_linear.weight",
    "experts.down_proj": "output_linear.weight",
    "router.weight": "router.layer.weight",
}
SCALES = {**SHARP, "router.weight": 8, "gate_up_proj": 4, "experts.down_proj": 16, "shared_mlp.output_linear.weight": 8}


def published(name: str, values: Any) -> Tensors:
    """All experts in one tensor, under IBM's names."""
    for new, old in NAMES.items():
        name = name.replace(new, old)
    return {name: values}


def granitemoe(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GraniteMoeForCausalLM"],
        "model_type": "granitemoe",
        "hidden_act": "silu",
        "intermediate_size": 96,
        "num_local_experts": 6,
        "num_experts_per_tok": 2,
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, hub=published, scales=SCALES)


def shared(folder: Path) -> Path:
    named = {"architectures": ["GraniteMoeSharedForCausalLM"], "model_type": "granitemoeshared"}
    return granitemoe(folder, shared_intermediate_size=160, tie_word_embeddings=False, **named)


CASES = {"": Case(granitemoe), "shared": Case(shared)}
