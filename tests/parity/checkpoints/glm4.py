from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import GLM, SIZES, build
from tests.parity.families import Case

ROLES = {
    f"tokenizer.ggml.{role}_token_id": "upstream names GLM's tokens itself; ours are the tokenizer's"
    for role in ("bos", "eos", "unknown", "eot", "padding")
}


def glm4(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Glm4ForCausalLM"],
        "model_type": "glm4",
        "head_dim": 24,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "attention_bias": True,
        "tie_word_embeddings": False,
    }
    return build(folder, GLM, config | words)


CASES = {
    "": Case(glm4, allowed=ROLES),
    "no biases": Case(lambda folder: glm4(folder, attention_bias=False), allowed=ROLES),
}
