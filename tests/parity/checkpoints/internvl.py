from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import QWEN, SHARP, build, same
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

PROCESSOR = {
    **SIGLIP_PIXELS,
    "crop_to_patches": True,
    "image_processor_type": "GotOcr2ImageProcessor",
    "max_patches": 12,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "resample": 3,
    "size": {"height": 112, "width": 112},
}
TEXT = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "qwen2",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": QWEN.vocab,
}
VISION = {
    "architectures": ["InternVisionModel"],
    "attention_bias": True,
    "hidden_act": "gelu",
    "hidden_size": 48,
    "image_size": [112, 112],
    "intermediate_size": 100,
    "layer_norm_eps": 1e-6,
    "layer_scale_init_value": 0.1,
    "model_type": "internvl_vision",
    "norm_type": "layer_norm",
    "num_attention_heads": 2,
    "num_channels": 3,
    "num_hidden_layers": 4,
    "patch_size": [14, 14],
    "use_absolute_position_embeddings": True,
    "use_mask_token": False,
    "use_mean_pooling": True,
    "use_qk_norm": False,
}


def internvl(folder: Path) -> Path:
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 16,
        "image_token_id": 492,
        "model_type": "internvl",
        "projector_hidden_act": "gelu",
        "text_config": TEXT,
        "tie_word_embeddings": False,
        "vision_config": VISION,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    scales = {"lambda_1": 8, "lambda_2": 8, "cls_token": 8, "linear_1.weight": 4, **VISION_SHARP, **SHARP}
    build(folder, QWEN, config, hub=same, scales=scales)
    return with_processor(folder, PROCESSOR)


def class_token_last(model: Any) -> None:
    """llama.cpp's order (models/internvl.cpp): the class token behind the patches, positions as if in front."""
    import torch

    positions = model.model.vision_tower.embeddings.position_embeddings
    with torch.no_grad():
        positions.copy_(positions.roll(1, 1))


WHY = "llama.cpp puts the class token behind the patches; the plan notes it, the equality is to that order"
TILES = "the processor's; upstream reads them in the layout of OpenGVLab only"
CASES = {
    "": Case(
        internvl,
        image=(112, 112),
        plain_image_tolerance=None,
        why=WHY,
        as_llama_cpp_sees=class_token_last,
        allowed={f"clip.vision.preproc_{which}_tiles": TILES for which in ("min", "max")},
    )
}
