"""What checkpoints that see have in common: the tokens around images, and the image processor's file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import tiny

QWEN_MARKS: Mapping[str, int] = {
    f"{name}_token_id": 480 + tiny.QWEN_SPECIAL.index(f"<|{text}|>")
    for name, text in {
        "vision_start": "vision_start",
        "vision_end": "vision_end",
        "vision": "vision_pad",
        "image": "image_pad",
        "video": "video_pad",
    }.items()
}
"""Words of a config.json beside parity.build's QWEN tokenizer."""

SIGLIP_PIXELS: Mapping[str, Any] = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.6],  # not alike, as they are on the hub: a mixed up order would go unnoticed
    "image_std": [0.5, 0.6, 0.4],
    "rescale_factor": 0.00392156862745098,
}

VISION_SHARP: Mapping[str, float] = {
    "qkv.weight": 8,
    "position_embedding.weight": 6,
    "pos_embed.weight": 6,
    "position_embeddings": 6,
    "patch_embedding.weight": 4,
    "patch_conv.weight": 4,
    "patch_embed.proj.weight": 4,
    "projection.weight": 4,
    ".bias": 4,
}
"""Endings of a vision tower's names -> factor: with these every norm, position and bias matters."""


def with_processor(folder: Path, words: Mapping[str, Any]) -> Path:
    """The checkpoint with preprocessor_config.json; returns its folder."""
    (folder / "preprocessor_config.json").write_text(json.dumps(words, indent=2))
    return folder
