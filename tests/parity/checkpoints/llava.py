from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.parity.build import LLAMA, SHARP, Tensors, build, with_last_tokens
from tests.parity.families import Case
from tests.parity.seeing import SIGLIP_PIXELS, VISION_SHARP, with_processor

WORDS = with_last_tokens(LLAMA, "<image>")
PROCESSOR = {
    **SIGLIP_PIXELS,
    "crop_size": {"height": 112, "width": 112},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "image_processor_type": "CLIPImageProcessor",
    "processor_class": "LlavaProcessor",
    "resample": 3,
    "size": {"shortest_edge": 112},
}
TEXT = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "model_type": "llama",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": LLAMA.vocab,
}
VISION = {
    "hidden_size": 48,
    "image_size": 112,
    "intermediate_size": 100,
    "model_type": "clip_vision_model",
    "num_attention_heads": 2,
    "num_hidden_layers": 4,
    "patch_size": 14,
    "projection_dim": 32,
    "vocab_size": LLAMA.vocab,
}


def published(name: str, values: Any) -> Tensors:
    """The names that llava-hf's checkpoints have."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head.")
    name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
    return {name.removeprefix("model.") if "projector" in name else name: values}


def llava(folder: Path) -> Path:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "ignore_index": -100,
        "image_token_index": 383,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": TEXT,
        "tie_word_embeddings": False,
        "vision_config": VISION,
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
    }
    scales = {"linear_1.weight": 4, "class_embedding": 8, **VISION_SHARP, **SHARP}
    build(folder, WORDS, config, hub=published, scales=scales)
    return with_processor(folder, PROCESSOR)


def class_token_last(model: Any) -> None:
    """llama.cpp's order (models/llava.cpp): the class token behind the patches, positions and choice as if in front."""
    import torch

    positions = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        positions.copy_(positions.roll(1, 0))
    model.config.vision_feature_select_strategy = "full"

    def chosen(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        values = arguments[0]
        return (torch.cat([values[:, 2:], values[:, :1]], 1),)

    model.model.multi_modal_projector.register_forward_pre_hook(chosen)


MISTRAL = with_last_tokens(LLAMA, "[IMG]", "[IMG_BREAK]", "[IMG_END]")
IMAGE, BREAK = 381, 382
PIXTRAL_PROCESSOR = {
    **SIGLIP_PIXELS,
    "do_convert_rgb": True,
    "image_processor_type": "PixtralImageProcessor",
    "patch_size": {"height": 14, "width": 14},
    "processor_class": "PixtralProcessor",
    "resample": 3,
    "size": {"longest_edge": 280},
}
PIXTRAL = {
    "head_dim": 24,
    "hidden_act": "silu",
    "hidden_size": 48,
    "image_size": 280,
    "intermediate_size": 100,
    "model_type": "pixtral",
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "patch_size": 14,
    "rope_theta": 10000.0,
}


def pixtral(folder: Path) -> Path:
    config = {
        "architectures": ["LlavaForConditionalGeneration"],
        "image_seq_length": 1,
        "image_token_index": IMAGE,
        "model_type": "llava",
        "projector_hidden_act": "gelu",
        "text_config": {**TEXT, "architectures": None, "head_dim": 24, "model_type": "mistral", "sliding_window": None},
        "tie_word_embeddings": False,
        "vision_config": PIXTRAL,
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
    }
    build(folder, MISTRAL, config, hub=of_pixtral, scales={"linear_1.weight": 4, **VISION_SHARP, **SHARP})
    return with_processor(folder, PIXTRAL_PROCESSOR)


def of_pixtral(name: str, values: Any) -> Tensors:
    """The names that Pixtral's and Mistral 3's checkpoints have."""
    name = name.replace("model.language_model.", "language_model.model.").replace("lm_head.", "language_model.lm_head.")
    return {name.removeprefix("model.") if "vision_tower" in name or "projector" in name else name: values}


NO_BREAK = {
    "v.token_embd.img_break": "upstream's converter skips all names with language_model. in them, the embedding's too; "
    "llama.cpp does not load such a file"
}
WHY = "llama.cpp puts the class token behind the patches; the plan notes it, the equality is to that order"
CASES = {
    "": Case(
        llava,
        image=(112, 112),
        plain_image_tolerance=None,
        why=WHY,
        as_llama_cpp_sees=class_token_last,
        no_parity="upstream's converter makes no projector for CLIP towers (Unsupported model type: clip_vision_model)",
    ),
    "Pixtral": Case(pixtral, image=(112, 140), rows=(10, BREAK), allowed=NO_BREAK),
}
