from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, Tensors, Words, build
from tests.parity.families import Case
from tests.parity.seeing import with_processor

SECONDS = 29.95  # nearly all that the encoder hears at a time: what is not there, the source would mask
AUDIO, BEGIN, END = 492, 483, 484
MARKS = {
    "<|image_pad|>": "<|AUDIO|>",
    "<|object_ref_start|>": "<|audio_bos|>",
    "<|object_ref_end|>": "<|audio_eos|>",
}
PROCESSOR = {
    "chunk_length": 30,
    "dither": 0.0,
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 16,
    "hop_length": 160,
    "n_fft": 400,
    "n_samples": 480000,
    "nb_max_frames": 3000,
    "padding_side": "right",
    "padding_value": 0.0,
    "processor_class": "Qwen2AudioProcessor",
    "return_attention_mask": True,
    "sampling_rate": 16000,
}
TEXT = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 2048,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000,
    "vocab_size": QWEN.vocab,
}
ENCODER = {
    "activation_function": "gelu",
    "d_model": 48,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 100,
    "encoder_layers": 3,
    "max_source_positions": 1500,
    "model_type": "qwen2_audio_encoder",
    "num_mel_bins": 16,
    "scale_embedding": False,
}
SHARP_SOUNDS: Mapping[str, float] = {
    "conv1.weight": 4,
    "conv2.weight": 4,
    "embed_positions.weight": 6,
    "linear.weight": 4,
    "linear_1.weight": 4,
    ".bias": 4,
}
"""Endings of an encoder's names -> factor: with these every convolution, position and bias matters."""


def marked(words: Words, marks: Mapping[str, str]) -> Words:
    """The words with other special tokens in the place of some."""

    def renamed(text: str) -> str:
        for old, new in marks.items():
            text = text.replace(json.dumps(old), json.dumps(new))
        return text

    config = json.loads(renamed(json.dumps(dict(words.tokenizer_config))))
    return replace(words, tokenizer=lambda: renamed(words.tokenizer()), tokenizer_config=config)


def published(name: str, values: Any) -> Tensors:
    """The names that Qwen2-Audio's checkpoint has, and those of its kin."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head.")
    return {name.removeprefix("model."): values}


def qwen2_audio(folder: Path) -> Path:
    config = {
        "architectures": ["Qwen2AudioForConditionalGeneration"],
        "audio_config": ENCODER,
        "audio_token_index": AUDIO,
        "model_type": "qwen2_audio",
        "text_config": TEXT,
        "tie_word_embeddings": False,
    }
    build(folder, marked(QWEN, MARKS), config, hub=published, scales={**SHARP_SOUNDS, **SHARP})
    return with_processor(folder, PROCESSOR)


def heard(model: Any, inputs: Mapping[str, Any]) -> Any:
    """transformers has no method of its own for it."""
    return model.model.multi_modal_projector(model.model.audio_tower(inputs["input_features"]).last_hidden_state)


CASES = {"": Case(qwen2_audio, sound=SECONDS, heard=heard)}
