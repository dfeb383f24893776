from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.parity.build import Tensors, published
from tests.parity.checkpoints.internvl import PROCESSOR, TEXT, VISION, WHY, class_token_last, internvl
from tests.parity.families import Case

TOWER: dict[str, Any] = {
    **{key: value for key, value in VISION.items() if not key.startswith(("use_", "attention_"))},
    "image_size": 112,
    "initializer_factor": 0.1,
    "model_type": "intern_vit_6b",
    "patch_size": 14,
    "qk_normalization": False,
    "qkv_bias": True,
    "use_flash_attn": True,
}
CONFIG = {
    "architectures": ["InternVLChatModel"],
    "downsample_ratio": 0.5,
    "dynamic_image_size": True,
    "force_image_size": 112,
    "llm_config": TEXT,
    "max_dynamic_patch": 12,
    "min_dynamic_patch": 1,
    "model_type": "internvl_chat",
    "ps_version": "v2",
    "select_layer": -1,
    "template": "internvl2_5",
    "vision_config": TOWER,
}
NAMES = (
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
    ("model.vision_tower.encoder.layer.", "vision_model.encoder.layers."),
    ("model.vision_tower.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
    ("model.vision_tower.embeddings.position_embeddings", "vision_model.embeddings.position_embedding"),
    ("model.vision_tower.embeddings.patch_embeddings.projection", "vision_model.embeddings.patch_embedding"),
    ("model.multi_modal_projector.layer_norm", "mlp1.0"),
    ("model.multi_modal_projector.linear_1", "mlp1.1"),
    ("model.multi_modal_projector.linear_2", "mlp1.3"),
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("lambda_1", "ls1"),
    ("lambda_2", "ls2"),
    ("attention.projection_layer", "attn.proj"),
)


def chat(tensors: Tensors) -> Tensors:
    """OpenGVLab's names: queries, keys and values of the tower in one matrix."""
    import torch

    made: Tensors = {}
    for own, values in tensors.items():
        name = own
        for old, new in NAMES:
            name = name.replace(old, new)
        if ".attention.q_proj." in own:
            parts = [tensors[own.replace("q_proj", f"{which}_proj")] for which in "qkv"]
            made[name.replace("attention.q_proj", "attn.qkv")] = torch.cat(parts)
        elif ".attention.k_proj." not in own and ".attention.v_proj." not in own:
            made[name] = values
    return made


def internvl_chat(folder: Path) -> Path:
    published(internvl(folder), CONFIG, chat)
    plain = {key: value for key, value in PROCESSOR.items() if key not in ("max_patches", "min_patches")}
    plain |= {"image_processor_type": "CLIPFeatureExtractor", "crop_size": 112, "size": 112}
    (folder / "preprocessor_config.json").write_text(json.dumps(plain, indent=2))
    return folder


CASES = {
    "": Case(
        internvl_chat,
        equal=internvl,
        image=(112, 112),
        plain_image_tolerance=None,
        why=WHY,
        as_llama_cpp_sees=class_token_last,
    )
}
