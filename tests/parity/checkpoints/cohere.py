from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

SCALES = {**SHARP, "embed_tokens.weight": 6}


def cohere(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["CohereForCausalLM"],
        "model_type": "cohere",
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "logit_scale": 0.0625,
        "rope_theta": 8000000.0,
        "use_qk_norm": False,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


def normed(folder: Path) -> Path:
    """Command-R+ has norms on queries and keys, in 64 layers; the source is almost lost in so many of chance."""
    return cohere(folder, num_hidden_layers=64, use_qk_norm=True, hidden_size=32, intermediate_size=32)


CASES = {
    "": Case(cohere),
    "64 layers, norms on queries": Case(normed),
    "trained for more": Case(lambda folder: cohere(folder, model_max_length=1024)),
}
