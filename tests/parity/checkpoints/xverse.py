from __future__ import annotations

from pathlib import Path

from tests.parity.build import SIZES, as_llama, published
from tests.parity.families import Case


def equal(folder: Path) -> Path:
    return as_llama(folder, num_key_value_heads=4)


def xverse(folder: Path) -> Path:
    config = {
        **{key: value for key, value in SIZES.items() if key != "num_key_value_heads"},
        "architectures": ["XverseForCausalLM"],
        "model_type": "xverse",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    return published(equal(folder), config)


KEYS = "upstream leaves it out where the config does; llama.cpp takes the number of heads"
CASES = {"": Case(xverse, equal=equal, allowed={"xverse.attention.head_count_kv": KEYS})}
