from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case

SCALES = {
    **SHARP,
    "q_layernorm.weight": 12,
    "conv.conv.weight": 8,
    "in_proj.weight": 4,
    "feed_forward.gate.weight": 8,
    "w2.weight": 4,
}
LAYERS = {"conv_L_cache": 3, "conv_bias": False, "layer_types": ["conv", "full_attention"], "norm_eps": 1e-5}


def lfm2(folder: Path, **words: Any) -> Path:
    config = {
        **SIZES,
        **LAYERS,
        "architectures": ["Lfm2ForCausalLM"],
        "model_type": "lfm2",
        "block_auto_adjust_ff_dim": True,
        "block_ff_dim": 150,
        "block_ffn_dim_multiplier": 1.1,
        "block_multiple_of": 32,
        "rope_theta": 1000000.0,
        "tie_embedding": True,
    }
    return build(folder, QWEN, config | words, scales=SCALES, drawn_as="Lfm2ForCausalLM")


def as_it_is(folder: Path) -> Path:
    """Under the class that older checkpoints name."""
    return lfm2(folder, architectures=["LFM2ForCausalLM"], block_auto_adjust_ff_dim=False, tie_embedding=False)


CASES = {"": Case(lfm2), "untied, of one width": Case(as_it_is)}
