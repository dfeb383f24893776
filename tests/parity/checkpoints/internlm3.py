from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build, published
from tests.parity.families import Case


def internlm3(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["LlamaForCausalLM"],  # whose layers transformers gives it
        "model_type": "internlm3",
        "bias": True,
        "head_dim": 32,
        "hidden_act": "silu",
        "qkv_bias": True,
        "rms_norm_eps": 1e-5,
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
        "rope_theta": 50000000,
        "tie_word_embeddings": False,
    } | words
    build(folder, LLAMA, config)
    return published(folder, config | {"architectures": ["InternLM3ForCausalLM"]})


CASES = {
    "": Case(internlm3),
    "no biases": Case(lambda folder: internlm3(folder, bias=False, qkv_bias=False, rope_scaling=None)),
}
