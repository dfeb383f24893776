from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, build
from tests.parity.checkpoints.qwen2_audio import (
    AUDIO,
    ENCODER,
    PROCESSOR,
    SECONDS,
    SHARP_SOUNDS,
    TEXT,
    marked,
    published,
)
from tests.parity.families import Case
from tests.parity.seeing import with_processor


def audioflamingo3(folder: Path) -> Path:
    config = {
        "architectures": ["AudioFlamingo3ForConditionalGeneration"],
        "audio_config": {
            **{key: value for key, value in ENCODER.items() if not key.startswith(("encoder_", "d_"))},
            "hidden_size": 48,
            "intermediate_size": 100,
            "model_type": "audioflamingo3_encoder",
            "num_attention_heads": 2,
            "num_hidden_layers": 3,
        },
        "audio_token_id": AUDIO,
        "model_type": "audioflamingo3",
        "projector_bias": True,
        "projector_hidden_act": "gelu",
        "text_config": TEXT,
        "tie_word_embeddings": False,
    }
    words = marked(QWEN, {"<|image_pad|>": "<sound>"})
    build(folder, words, config, hub=published, scales={**SHARP_SOUNDS, **SHARP})
    return with_processor(folder, {**PROCESSOR, "processor_class": "AudioFlamingo3Processor"})


def heard(model: Any, inputs: Mapping[str, Any]) -> Any:
    return model.get_audio_features(inputs["input_features"], inputs["attention_mask"])


CASES = {"": Case(audioflamingo3, sound=SECONDS, heard=heard)}
