from __future__ import annotations

from pathlib import Path

from tests.parity.build import LLAMA, SHARP, build, with_last_tokens
from tests.parity.checkpoints.llava import TEXT
from tests.parity.checkpoints.qwen2_audio import PROCESSOR, SHARP_SOUNDS, published
from tests.parity.families import Case
from tests.parity.seeing import with_processor

WORDS = with_last_tokens(LLAMA, "[AUDIO]", "[BEGIN_AUDIO]")
ENCODER = {
    "activation_function": "gelu",
    "hidden_size": 48,
    "intermediate_size": 192,
    "max_source_positions": 1500,
    "model_type": "voxtral_encoder",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_mel_bins": 16,
}


def voxtral(folder: Path) -> Path:
    config = {
        "architectures": ["VoxtralForConditionalGeneration"],
        "audio_config": ENCODER,
        "audio_token_id": 382,
        "hidden_size": 64,
        "model_type": "voxtral",
        "projector_hidden_act": "gelu",
        "text_config": {**TEXT, "head_dim": 24, "max_position_embeddings": 2048, "rope_theta": 1e8},
        "tie_word_embeddings": False,
    }
    build(folder, WORDS, config, hub=published, scales={**SHARP_SOUNDS, **SHARP})
    return with_processor(folder, {**PROCESSOR, "processor_class": "VoxtralProcessor"})


# No sound: llama.cpp b11549 makes 188 tokens of one and counts 187 (clip.cpp), and stops there; the plan notes it.
CASES = {"": Case(voxtral)}
