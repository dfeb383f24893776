from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, Hub, Tensors, build, same, with_last_tokens
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

WORDS = with_last_tokens(LLAMA, "<|IMAGE_START|>", "<|IMAGE_END|>", "<|IMAGE_PLACEHOLDER|>", "<|video_pad|>")
PROCESSOR = {
    **SIGLIP_PIXELS,
    "do_convert_rgb": True,
    "image_processor_type": "PaddleOCRVLImageProcessor",
    "max_pixels": 262144,
    "merge_size": 2,
    "min_pixels": 12544,
    "patch_size": 14,
    "processor_class": "PaddleOCRVLProcessor",
    "resample": 3,
    "temporal_patch_size": 1,
}
VISION = {
    "architectures": ["PaddleOCRVisionModel"],
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 48,
    "image_size": 84,
    "intermediate_size": 100,
    "layer_norm_eps": 1e-6,
    "model_type": "paddleocr_vl",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
}


def published(name: str, values: Any) -> Tensors:
    """The names that Baidu's checkpoint has."""
    name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    return {name.replace("model.projector.", "mlp_AR."): values}


TEXT = {
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"mrope_section": [4, 6, 6], "rope_type": "default", "type": "default"},
    "rope_theta": 500000,
    "use_bias": False,
    "vocab_size": WORDS.vocab,
}
SCALES = {"linear_1.weight": 4, **VISION_SHARP, **SHARP}


def paddleocr(folder: Path, hub: Hub, **words: Any) -> Path:
    config = {
        "architectures": ["PaddleOCRVLForConditionalGeneration"],
        "image_token_id": 382,
        "model_type": "paddleocr_vl",
        "video_token_id": 383,
        "vision_config": VISION,
        "vision_end_token_id": 381,
        "vision_start_token_id": 380,
        **words,
    }
    build(folder, WORDS, config, hub=hub, scales=SCALES)
    return with_processor(folder, PROCESSOR)


def saved(folder: Path) -> Path:
    text = {**TEXT, "model_type": "paddleocr_vl_text"}
    return paddleocr(folder, same, text_config=text, tie_word_embeddings=True)


NO_VISION = "upstream's converter looks for the names that Baidu gave the tower"
CASES = {
    "": Case(lambda folder: paddleocr(folder, published, **TEXT, tie_word_embeddings=True), image=(112, 140)),
    "as transformers saves it": Case(saved, image=(140, 112), no_parity=NO_VISION),
}
