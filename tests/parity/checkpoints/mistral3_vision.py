from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import SHARP, build
from tests.parity.checkpoints.llava import (
    BREAK,
    IMAGE,
    MISTRAL,
    NO_BREAK,
    PIXTRAL,
    PIXTRAL_PROCESSOR,
    TEXT,
    of_pixtral,
)
from tests.parity.checkpoints.mistral3 import YARN
from tests.parity.families import Case
from tests.parity.seeing import VISION_SHARP, with_processor

PROCESSOR = {**PIXTRAL_PROCESSOR, "patch_size": 28, "size": {"longest_edge": 1540}}
SCALES = {"linear_1.weight": 4, "merging_layer.weight": 4, **VISION_SHARP, **SHARP}


def mistral3_vision(folder: Path, **more: Any) -> Path:
    text = {**TEXT, "architectures": None, "head_dim": 24, "model_type": "mistral", "rope_theta": 1e9, **more}
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "image_token_index": IMAGE,
        "model_type": "mistral3",
        "multimodal_projector_bias": False,
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "text_config": {**text, "sliding_window": None},
        "tie_word_embeddings": False,
        "vision_config": PIXTRAL,
        "vision_feature_layer": -1,
    }
    build(folder, MISTRAL, config, hub=of_pixtral, scales=SCALES)
    return with_processor(folder, PROCESSOR)


def ministral3(folder: Path) -> Path:
    return mistral3_vision(folder, model_type="ministral3", rope_theta=None, rope_parameters=YARN)


CASES = {
    "": Case(mistral3_vision, image=(112, 140), rows=(5, BREAK), allowed=NO_BREAK),
    "Ministral 3": Case(ministral3, image=(112, 140), rows=(5, BREAK), allowed=NO_BREAK),
}
