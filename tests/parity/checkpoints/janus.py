from __future__ import annotations

from pathlib import Path

from tests.parity.build import LLAMA, SHARP, build, same, with_last_tokens
from tests.parity.checkpoints.llava import TEXT
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

WORDS = with_last_tokens(LLAMA, "<image_placeholder>")
PROCESSOR = {
    **SIGLIP_PIXELS,
    "do_pad": True,
    "image_processor_type": "JanusImageProcessor",
    "min_size": 14,
    "processor_class": "JanusProcessor",
    "resample": 3,
    "size": {"height": 128, "width": 128},
}
VISION = {
    "attention_bias": True,
    "depth": 2,
    "hidden_act": "gelu",
    "hidden_size": 48,
    "image_size": 128,
    "layer_norm_eps": 1e-6,
    "mlp_ratio": 2.0,
    "model_type": "janus_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "num_image_tokens": 64,
    "patch_size": 16,
    "projection_dim": 64,
    "use_qk_norm": False,
}
DRAWING = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "embed_dim": 8,
    "image_token_embed_dim": 64,
    "latent_channels": 32,
    "model_type": "janus_vqgan",
    "num_embeddings": 64,
    "num_hidden_layers": 2,
    "num_patches": 8,
    "num_res_blocks": 1,
    "projection_dim": 64,
}


def janus(folder: Path) -> Path:
    config = {
        "architectures": ["JanusForConditionalGeneration"],
        "image_token_id": 383,
        "model_type": "janus",
        "text_config": {key: value for key, value in TEXT.items() if key != "architectures"},
        "tie_word_embeddings": False,
        "vision_config": VISION,
        "vq_config": DRAWING,
    }
    build(folder, WORDS, config, hub=same, scales={"aligner.fc1.weight": 4, **VISION_SHARP, **SHARP})
    return with_processor(folder, PROCESSOR)


CASES = {"": Case(janus, image=(128, 128))}
