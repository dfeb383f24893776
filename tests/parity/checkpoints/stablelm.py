from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

HEAD_NORMS = {f"norms.{head}.weight": 20.0 for head in range(4)}  # drawn around 0


def stablelm(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["StableLmForCausalLM"],
        "model_type": "stablelm",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 10000,
        "partial_rotary_factor": 0.25,
        "use_qkv_bias": True,
        "use_parallel_residual": False,
        "qk_layernorm": False,
        "tie_word_embeddings": False,
    }
    return build(folder, QWEN, config | words, scales={**SHARP, **HEAD_NORMS})


CASES = {
    "": Case(stablelm),
    "12B": Case(
        lambda folder: stablelm(folder, use_qkv_bias=False, use_parallel_residual=True, qk_layernorm=True),
        no_parity="upstream's converter loses the norms of single heads",
    ),
}
