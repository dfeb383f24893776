from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build, published
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


def epoch(folder: Path) -> Path:
    """As the first files, with the class of the code that came with them."""
    config = {
        **SIZES,
        "architectures": ["StableLMEpochForCausalLM"],
        "model_type": "stablelm_epoch",
        "hidden_act": "silu",
        "norm_eps": 1e-5,
        "rope_pct": 0.25,
        "rope_theta": 10000,
        "tie_word_embeddings": False,
        "use_qkv_bias": True,
    }
    return published(stablelm(folder), config)


PARALLEL = "upstream takes it for true where the config is silent; llama.cpp goes by the norms there are"
CASES = {
    "": Case(stablelm),
    "the first files": Case(epoch, equal=stablelm, allowed={"stablelm.use_parallel_residual": PARALLEL}),
    "12B": Case(
        lambda folder: stablelm(folder, use_qkv_bias=False, use_parallel_residual=True, qk_layernorm=True),
        no_parity="upstream's converter loses the norms of single heads",
    ),
}
