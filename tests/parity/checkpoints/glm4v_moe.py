from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import Tensors
from tests.parity.checkpoints.deepseek2 import BY_BYTES, GLM_WORDS, with_correction
from tests.parity.checkpoints.glm4_moe import ALLOWED
from tests.parity.checkpoints.glm4v import glm4v, rounded, seeing
from tests.parity.families import Case

WORDS = {
    "attention_bias": True,
    "first_k_dense_replace": 1,
    "head_dim": 32,
    "moe_intermediate_size": 48,
    "n_group": 1,
    "n_routed_experts": 6,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 3,
    "routed_scaling_factor": 1.5,
    "topk_group": 1,
}


def published(name: str, values: Any) -> Tensors:
    """The names that GLM-4.5V's checkpoint has: experts apart, and the level that transformers has too."""
    found = with_correction(name.replace("model.language_model.", "model."), values)
    text = name.startswith("model.language_model.")
    return {made.replace("model.", "model.language_model.", 1) if text else name: v for made, v in found.items()}


def glm4v_moe(folder: Path) -> Path:
    return glm4v(folder, "Glm4vMoe", published, seeing(GLM_WORDS), **WORDS)


CASES = {
    "": Case(
        glm4v_moe,
        image=(112, 140),
        exact_gelu=True,
        as_llama_cpp_sees=rounded,
        allowed={**ALLOWED, **BY_BYTES},
    )
}
