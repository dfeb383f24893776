from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import tiny
from tests.parity.build import QWEN, TINY_SHARP, Hub, build, same
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, VISION_SHARP, with_processor

PROCESSOR = {
    **tiny.PREPROCESSOR,
    "image_mean": [0.5, 0.4, 0.6],
    "image_std": [0.5, 0.6, 0.4],
    "min_pixels": 8192,
    "max_pixels": 262144,
    "patch_size": 16,
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "processor_class": "Qwen3VLProcessor",
}
TEXT = {
    "attention_bias": False,
    "head_dim": 32,
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"},
    "rope_theta": 5000000,
    "vocab_size": QWEN.vocab,
}
VISION = {
    "deepstack_visual_indexes": [0, 2],
    "depth": 4,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 48,
    "in_channels": 3,
    "intermediate_size": 100,
    "num_heads": 2,
    "num_position_embeddings": 36,
    "out_hidden_size": 64,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}
SCALES = {"self_attn.q_norm.weight": 12, **TINY_SHARP, **VISION_SHARP}


def qwen3_vl(folder: Path, tied: bool = True, kind: str = "", hub: Hub = same, **words: Any) -> Path:
    name = "Moe" if kind else ""
    config = {
        **QWEN_MARKS,
        "architectures": [f"Qwen3VL{name}ForConditionalGeneration"],
        "model_type": f"qwen3_vl{kind}",
        "text_config": {**TEXT, "model_type": f"qwen3_vl{kind}_text", "tie_word_embeddings": tied, **words},
        "tie_word_embeddings": tied,
        "vision_config": {**VISION, "model_type": f"qwen3_vl{kind}"},
    }
    build(folder, QWEN, config, hub=hub, scales=SCALES)
    return with_processor(folder, PROCESSOR)


# 8 x 10 patches over 6 x 6 position embeddings
CASES = {
    "": Case(qwen3_vl, image=(128, 160)),
    "untied": Case(lambda folder: qwen3_vl(folder, tied=False), image=(160, 128)),
}
