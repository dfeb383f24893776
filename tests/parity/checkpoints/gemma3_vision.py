from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, Tensors, build, with_last_tokens
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

WORDS = with_last_tokens(LLAMA, "<end_of_turn>", "<start_of_image>", "<end_of_image>", "<image_soft_token>")
PROCESSOR = {
    **SIGLIP_PIXELS,
    "image_processor_type": "Gemma3ImageProcessor",
    "image_seq_length": 16,
    "processor_class": "Gemma3Processor",
    "resample": 2,
    "size": {"height": 224, "width": 224},
}
TEXT = {
    "head_dim": 24,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 7,
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 24,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 24,
    "vocab_size": LLAMA.vocab,
}
VISION = {
    "hidden_size": 48,
    "image_size": 224,
    "intermediate_size": 100,
    "model_type": "siglip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "patch_size": 14,
    "vision_use_head": False,
}
SCALES = {"mm_input_projection_weight": 4, "self_attn.q_norm.weight": 2, **VISION_SHARP, **SHARP}


def published(name: str, values: Any) -> Tensors:
    """The names that Google's checkpoints have."""
    name = name.replace("model.language_model.", "language_model.model.")
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    return {name.removeprefix("model.") if "projector" in name else name: values}


def gemma3_vision(folder: Path) -> Path:
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "boi_token_index": 381,
        "eoi_token_index": 382,
        "eos_token_id": [2, 380],
        "image_token_index": 383,
        "mm_tokens_per_image": 16,
        "model_type": "gemma3",
        "text_config": TEXT,
        "vision_config": VISION,
    }
    build(folder, WORDS, config, hub=published, scales=SCALES)
    return with_processor(folder, PROCESSOR)


WHY = "the projection is F16 in every file: llama.cpp then rounds what goes into it, and seven layers amplify that"

CASES = {"": Case(gemma3_vision, image=(224, 224), image_tolerance=1e-2, why=WHY)}
