from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

SCALES = {**SHARP, "sinks": 20}
POSITIONS = {"granite_swa.attention.rope_pattern": "upstream looks for a key that no config has (no_rope_layers)"}


def granite_swa(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        "architectures": ["GraniteSWAForCausalLM"],
        "model_type": "granite_swa",
        "num_hidden_layers": 5,
        "attention_bias": False,
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "hidden_act": "silu",
        "logits_scaling": 2.0,
        "mlp_bias": False,
        "residual_multiplier": 0.3,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 24,
        "tie_word_embeddings": True,
    }
    return build(folder, QWEN, config | words, scales=SCALES)


CASES = {
    "": Case(granite_swa),
    "layers without positions": Case(
        lambda folder: granite_swa(folder, layer_rope_theta=[0, 10000.0, 10000.0, 10000.0, 0]), allowed=POSITIONS
    ),
}
