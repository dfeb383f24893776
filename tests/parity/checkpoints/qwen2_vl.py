from __future__ import annotations

from pathlib import Path

from tests import tiny
from tests.parity.build import QWEN, SHARP, SIZES, build
from tests.parity.families import Case
from tests.parity.seeing import QWEN_MARKS, VISION_SHARP, with_processor

PROCESSOR = {**tiny.PREPROCESSOR, "processor_class": "Qwen2VLProcessor"}
ALLOWED = {"clip.vision.feed_forward_length": "upstream writes the text model's width; the graph does not read it"}


def qwen2_vl(folder: Path) -> Path:
    config = {
        **SIZES,
        **QWEN_MARKS,
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "hidden_act": "silu",
        "max_window_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vision_config": {
            "depth": 3,  # upstream has no name for mm.2 with fewer
            "embed_dim": 48,
            "hidden_size": 64,
            "in_chans": 3,
            "mlp_ratio": 4,
            "model_type": "qwen2_vl",
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }
    build(folder, QWEN, config, scales={**SHARP, **VISION_SHARP})
    return with_processor(folder, PROCESSOR)


# 10 x 14 patches: both sides matter, and nobody resizes the image
CASES = {"": Case(qwen2_vl, image=(140, 196), allowed=ALLOWED)}
