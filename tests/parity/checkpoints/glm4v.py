from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import GLM, SHARP, Hub, Words, build, same
from tests.parity.checkpoints.glm4 import ROLES
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, VISION_SHARP, with_processor


def seeing(words: Words) -> Words:
    """The words with GLM's marks around images in the place of Qwen's."""

    def renamed(text: str) -> str:
        return text.replace("<|vision_start|>", "<|begin_of_image|>").replace("<|vision_end|>", "<|end_of_image|>")

    config = json.loads(renamed(json.dumps(dict(words.tokenizer_config))))
    return replace(words, tokenizer=lambda: renamed(words.tokenizer()), tokenizer_config=config)


WORDS = seeing(GLM)
MARKS = {
    "image_start_token_id": QWEN_MARKS["vision_start_token_id"],
    "image_end_token_id": QWEN_MARKS["vision_end_token_id"],
    "image_token_id": QWEN_MARKS["image_token_id"],
    "video_token_id": QWEN_MARKS["video_token_id"],
}
PROCESSOR = {
    **{key: value for key, value in tiny.PREPROCESSOR.items() if not key.endswith("_pixels")},
    "image_mean": [0.5, 0.4, 0.6],
    "image_std": [0.5, 0.6, 0.4],
    "image_processor_type": "Glm4vImageProcessor",
    "processor_class": "Glm4vProcessor",
    "size": {"shortest_edge": 12544, "longest_edge": 6422528},  # of both frames: 8 to 4096 tokens, as llama.cpp
}
TEXT = {
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "rope_scaling": {"mrope_section": [2, 3, 3], "rope_type": "default"},
    "rope_theta": 10000.0,
    "vocab_size": WORDS.vocab,
}
VISION = {
    "depth": 2,
    "hidden_act": "silu",
    "hidden_size": 48,
    "image_size": 84,
    "in_channels": 3,
    "intermediate_size": 100,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 14,
    "rms_norm_eps": 1e-5,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
SCALES = {"merger.proj.weight": 4, "attn.q_norm.weight": 3, **VISION_SHARP, **SHARP}


def glm4v(folder: Path, name: str = "Glm4v", hub: Hub = same, tokens: Words = WORDS, **words: Any) -> Path:
    kind = {"Glm4v": "glm4v", "Glm4vMoe": "glm4v_moe", "GlmOcr": "glm_ocr"}[name]
    config = {
        **MARKS,
        "architectures": [f"{name}ForConditionalGeneration"],
        "model_type": kind,
        "text_config": {**TEXT, "model_type": f"{kind}_text", **words},
        "tie_word_embeddings": False,
        "vision_config": {**VISION, "model_type": f"{kind}_vision"},
    }
    build(folder, tokens, config, hub=hub, scales=SCALES)
    return with_processor(folder, PROCESSOR)


def glm_ocr(folder: Path) -> Path:
    return glm4v(folder, "GlmOcr", head_dim=24, rope_scaling=SECTIONS, num_nextn_predict_layers=0)


def rounded(model: Any) -> None:
    """What goes into a convolution as ggml has it, float16 (ggml.c, ggml_conv_2d): here the one that merges patches."""
    model.model.visual.downsample.register_forward_pre_hook(lambda module, given: (given[0].half().float(),))


SECTIONS = {"mrope_section": [2, 2, 2], "rope_type": "default"}
NO_DRAFTS = {"glm4.nextn_predict_layers": "layers that predict tokens further ahead are left out"}
# 8 x 10 patches over 6 x 6 position embeddings
CASES = {
    "": Case(glm4v, image=(112, 140), exact_gelu=True, as_llama_cpp_sees=rounded, allowed=ROLES),
    "OCR": Case(glm_ocr, image=(112, 140), exact_gelu=True, as_llama_cpp_sees=rounded, allowed={**ROLES, **NO_DRAFTS}),
}
