from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.parity.build import QWEN, SIZES, Tensors, build
from tests.parity.checkpoints.lfm2 import LAYERS, SCALES
from tests.parity.checkpoints.qwen2_audio import marked
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, SIGLIP_PIXELS, VISION_SHARP, with_processor

PATCH = 16
MARKS = {
    "<|vision_start|>": "<|image_start|>",
    "<|vision_end|>": "<|image_end|>",
    "<|box_start|>": "<|img_thumbnail|>",
    "<|image_pad|>": "<image>",
}
PROCESSOR = {
    **SIGLIP_PIXELS,
    "downsample_factor": 2,
    "encoder_patch_size": PATCH,
    "image_processor_type": "Lfm2VlImageProcessorFast",
    "max_image_tokens": 256,
    "min_image_tokens": 64,
    "processor_class": "Lfm2VlProcessor",
    "tile_size": 512,
}
VISION = {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 48,
    "intermediate_size": 100,
    "model_type": "siglip2_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_patches": 64,
    "patch_size": PATCH,
    "vision_use_head": False,
}


def published(name: str, values: Any) -> Tensors:
    """The names that Liquid's checkpoints have."""
    return {name.replace("model.vision_tower.", "model.vision_tower.vision_model."): values}


def lfm2_vl(folder: Path, **words: Any) -> Path:
    config = {
        "architectures": ["Lfm2VlForConditionalGeneration"],
        "downsample_factor": 2,
        "image_token_id": QWEN_MARKS["image_token_id"],
        "model_type": "lfm2_vl",
        "projector_bias": True,
        "projector_hidden_act": "gelu",
        "projector_hidden_size": 80,
        "projector_use_layernorm": True,
        "text_config": {
            **SIZES,
            **LAYERS,
            "architectures": ["Lfm2ForCausalLM"],
            "block_auto_adjust_ff_dim": False,
            "model_type": "lfm2",
            "rope_theta": 1000000.0,
            "vocab_size": QWEN.vocab,
        },
        "tie_word_embeddings": True,
        "vision_config": VISION,
        **words,
    }
    scales = {"linear_1.weight": 4, **VISION_SHARP, **SCALES}
    build(folder, marked(QWEN, MARKS), config, hub=published, scales=scales)
    return with_processor(folder, PROCESSOR)


def processed(pixels: np.ndarray) -> Mapping[str, Any]:
    """An image cut into rows of patches, as the processor does, which wants torchvision: colours last in each."""
    import torch

    mean, deviation = (np.array(PROCESSOR[key], np.float32) for key in ("image_mean", "image_std"))
    values = (pixels.astype(np.float32) / 255 - mean) / deviation
    rows, columns = pixels.shape[0] // PATCH, pixels.shape[1] // PATCH
    patches = values.reshape(rows, PATCH, columns, PATCH, 3).swapaxes(1, 2).reshape(1, rows * columns, -1)
    return {
        "pixel_values": torch.from_numpy(patches.copy()),
        "spatial_shapes": torch.tensor([[rows, columns]]),
        "pixel_attention_mask": torch.ones(1, rows * columns, dtype=torch.long),
    }


# 16 x 20 patches over 8 x 8 position embeddings
CASES = {
    "": Case(lfm2_vl, image=(256, 320), processed=processed),
    "no norm": Case(
        lambda folder: lfm2_vl(folder, projector_use_layernorm=False), image=(320, 256), processed=processed
    ),
}
