from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SIZES, build
from tests.parity.families import Case


def starcoder2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Starcoder2ForCausalLM"],
        "model_type": "starcoder2",
        "hidden_act": "gelu_pytorch_tanh",
        "norm_epsilon": 1e-5,
        "rope_theta": 100000.0,
        "use_bias": True,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words)


CASES = {
    "": Case(starcoder2),
    "untied": Case(lambda folder: starcoder2(folder, tie_word_embeddings=False)),
}
