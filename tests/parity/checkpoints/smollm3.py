from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SIZES, build
from tests.parity.families import Case


def smollm3(folder: Path, **words: Any) -> Path:
    """Five layers: the fourth knows no positions."""
    config = {
        **SIZES,
        "architectures": ["SmolLM3ForCausalLM"],
        "model_type": "smollm3",
        "num_hidden_layers": 5,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 5000000.0,
        "no_rope_layer_interval": 4,
        "no_rope_layers": [1, 1, 1, 0, 1],
        "layer_types": ["full_attention"] * 5,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": True,
    }
    return build(folder, LLAMA, config | words)


CASES = {
    "": Case(smollm3),
    "pattern unsaid, untied": Case(
        lambda folder: smollm3(folder, no_rope_layers=None, layer_types=None, tie_word_embeddings=False)
    ),
}
