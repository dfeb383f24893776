"""Tiny sources that see, one of every way in which images are put into a prompt; llama.cpp need not know them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, SIZES, build, same
from tests.parity.checkpoints.glm4v import glm4v

IDS = {token: 480 + tiny.QWEN_SPECIAL.index(token) for token in tiny.QWEN_SPECIAL}
PIXELS = {"image_mean": [0.5, 0.4, 0.6], "image_std": [0.5, 0.6, 0.4], "rescale_factor": 1 / 255}
TEXT = {**SIZES, "vocab_size": 512, "hidden_act": "silu", "pad_token_id": 480, "tie_word_embeddings": False}
TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 56,
    "patch_size": 14,
}


def _build(
    folder: Path, marks: Mapping[str, str], span: str, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> Path:
    """A checkpoint whose tokenizer has `marks` (a free token -> its new text) and whose template writes `span`."""

    def renamed(text: str) -> str:
        for old, new in marks.items():
            text = text.replace(old, new)
        return text

    template = tiny.CHATML.replace("<|vision_start|><|image_pad|><|vision_end|>", span)
    words = {**json.loads(renamed(json.dumps(dict(tiny.QWEN_TOKENIZER_CONFIG)))), "chat_template": template}
    build(folder, replace(QWEN, tokenizer=lambda: renamed(QWEN.tokenizer()), tokenizer_config=words), config, hub=same)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PIXELS, **processor}))
    return folder


def llava(folder: Path) -> Path:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": IDS["<|box_start|>"],
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**TOWER, "model_type": "clip_vision_model", "num_hidden_layers": 3, "projection_dim": 32},
    }
    side = {"height": 56, "width": 56}
    processor = {"image_processor_type": "CLIPImageProcessor", "crop_size": side, "size": {"shortest_edge": 56}}
    return _build(folder, {"<|box_start|>": "<image>"}, "<image>", config, processor)


def gemma3(folder: Path) -> Path:
    marks = {
        "<|box_start|>": "<start_of_image>",
        "<|box_end|>": "<end_of_image>",
        "<|image_pad|>": "<image_soft_token>",
    }
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "boi_token_index": IDS["<|box_start|>"],
        "eoi_token_index": IDS["<|box_end|>"],
        "image_token_index": IDS["<|image_pad|>"],
        "mm_tokens_per_image": 4,
        "text_config": {**TEXT, "model_type": "gemma3_text", "head_dim": 16, "sliding_window": 24},
        "vision_config": {**TOWER, "model_type": "siglip_vision_model", "vision_use_head": False},
    }
    processor = {"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 56, "width": 56}}
    return _build(folder, marks, "<start_of_image>", config, processor)


def internvl(folder: Path) -> Path:
    marks = {"<|box_start|>": "<img>", "<|box_end|>": "</img>", "<|image_pad|>": "<IMG_CONTEXT>"}
    config = {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "image_token_id": IDS["<|image_pad|>"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "text_config": {**TEXT, "model_type": "qwen2"},
        "vision_config": {**TOWER, "model_type": "internvl_vision", "image_size": [56, 56], "patch_size": [14, 14]},
    }
    side = {"height": 56, "width": 56}
    processor = {"image_processor_type": "GotOcr2ImageProcessorFast", "size": side, "crop_to_patches": False}
    return _build(folder, marks, "<IMG_CONTEXT>\n", config, processor)


def idefics3(folder: Path) -> Path:
    marks = {"<|box_start|>": "<image>", "<|box_end|>": "<fake_token_around_image>", "<|quad_start|>": "<global-img>"}
    config = {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "image_token_id": IDS["<|box_start|>"],
        "scale_factor": 2,
        "text_config": {**TEXT, "model_type": "llama"},
        "vision_config": {**TOWER, "model_type": "idefics3_vision"},
    }
    processor = {
        "image_processor_type": "Idefics3ImageProcessor",
        "size": {"longest_edge": 168},
        "max_image_size": {"longest_edge": 56},
    }
    return _build(folder, marks, "<image>", config, processor)


def smolvlm(folder: Path) -> Path:
    """The same by its other name, with images that are not cut."""
    idefics3(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm"}
    config["vision_config"]["model_type"] = "smolvlm_vision"
    (folder / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "SmolVLMImageProcessor", "do_image_splitting": False}
    sizes = {"size": {"longest_edge": 56}, "max_image_size": {"longest_edge": 56}}
    (folder / "preprocessor_config.json").write_text(json.dumps({**PIXELS, **processor, **sizes}))
    return folder


def qwen3_vl(folder: Path) -> Path:
    text = {**TEXT, "head_dim": 16, "rope_scaling": {"rope_type": "default", "mrope_section": [4, 2, 2]}}
    config = {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "image_token_id": IDS["<|image_pad|>"],
        "video_token_id": IDS["<|video_pad|>"],
        "vision_start_token_id": IDS["<|vision_start|>"],
        "vision_end_token_id": IDS["<|vision_end|>"],
        "text_config": {**text, "model_type": "qwen3_vl_text"},
        "vision_config": {
            "model_type": "qwen3_vl",
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": 16,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
    }
    sizes = {"size": {"shortest_edge": 1024, "longest_edge": 262144}, "patch_size": 16, "merge_size": 2}
    processor = {"image_processor_type": "Qwen2VLImageProcessorFast", "temporal_patch_size": 2, **sizes}
    return _build(folder, {}, "<|vision_start|><|image_pad|><|vision_end|>", config, processor)


def mistral3(folder: Path) -> Path:
    marks = {"<|box_start|>": "[IMG]", "<|box_end|>": "[IMG_BREAK]", "<|quad_start|>": "[IMG_END]"}
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "model_type": "mistral3",
        "image_token_index": IDS["<|box_start|>"],
        "projector_hidden_act": "gelu",
        "spatial_merge_size": 2,
        "vision_feature_layer": -1,
        "text_config": {**TEXT, "model_type": "mistral", "head_dim": 16, "sliding_window": None},
        "vision_config": {**TOWER, "model_type": "pixtral", "image_size": 280, "head_dim": 16},
        "tie_word_embeddings": False,
    }
    processor = {"image_processor_type": "PixtralImageProcessor", "patch_size": 28, "size": {"longest_edge": 280}}
    return _build(folder, marks, "[IMG]", config, processor)


SOURCES: Mapping[str, Callable[[Path], Path]] = {
    "llava": llava,
    "gemma3": gemma3,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "qwen2_5_vl": tiny.tiny_qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "mistral3": mistral3,
    "glm4v": glm4v,
}
"""model_type -> what makes a tiny checkpoint of it."""
