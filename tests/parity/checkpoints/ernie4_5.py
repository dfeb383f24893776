from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build, published
from tests.parity.families import Case


def ernie(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["Ernie4_5ForCausalLM"],
        "model_type": "ernie4_5",
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "use_bias": False,
    }
    return build(folder, LLAMA, config | words)


def first(folder: Path) -> Path:
    """As the first files, with the class of the code that came with them."""
    config = json.loads((ernie(folder) / "config.json").read_text())
    return published(folder, config | {"architectures": ["Ernie4_5_ForCausalLM"]})


CASES = {
    "": Case(ernie),
    "a head of its own": Case(lambda folder: ernie(folder, tie_word_embeddings=False)),
    "the first files": Case(first),
}
