"""The words of an mmproj file: what llama.cpp's clip reads about a vision tower and its images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.architectures._config import Config
from convert.errors import Problem
from convert.gguf.fields import Field


@dataclass(frozen=True)
class VisionTower:
    """The numbers of a vision tower with a projector behind it."""

    projector: str  # clip.projector_type
    layers: int
    width: int
    ffn: int
    heads: int
    patch: int  # pixels
    image_size: int  # pixels
    text_width: int
    epsilon: float
    activation: str  # silu, gelu, quick_gelu
    merge: int  # patches a side that become one token
    window: int  # pixels
    full_attention_every: int  # blocks


# clip.cpp takes quick_gelu when neither is true
ACTIVATIONS = {"silu": ("clip.use_silu",), "gelu": ("clip.use_gelu",), "quick_gelu": ()}

# clip.cpp gives Qwen's images 8 to 4096 tokens whatever the file says; --image-min-tokens and -max-tokens change it
LLAMA_CPP_MAX_TOKENS = 4096


def vision_fields(
    tower: VisionTower, preprocessor: Mapping[str, Any], problems: list[Problem]
) -> tuple[list[Field], list[str]]:
    """The clip.* fields, and notes on what llama.cpp will do differently. What is wrong is added to `problems`."""
    images = image_config(preprocessor, problems)
    fields = [
        Field.boolean("clip.has_vision_encoder", True),
        Field.string("clip.projector_type", tower.projector),
        *(Field.boolean(key, True) for key in ACTIVATIONS[tower.activation]),
        Field.uint32("clip.vision.projection_dim", tower.text_width),
        Field.uint32("clip.vision.image_size", tower.image_size),
        Field.uint32("clip.vision.patch_size", tower.patch),
        Field.uint32("clip.vision.embedding_length", tower.width),
        Field.uint32("clip.vision.feed_forward_length", tower.ffn),
        Field.uint32("clip.vision.block_count", tower.layers),
        Field.uint32("clip.vision.attention.head_count", tower.heads),
        Field.float32("clip.vision.attention.layer_norm_epsilon", tower.epsilon),
        Field.float32s("clip.vision.image_mean", images.numbers("image_mean", 3)),
        Field.float32s("clip.vision.image_std", images.numbers("image_std", 3)),
        Field.uint32("clip.vision.n_wa_pattern", tower.full_attention_every),
        Field.uint32("clip.vision.spatial_merge_size", tower.merge),
        Field.uint32("clip.vision.window_size", tower.window),
    ]
    limits, notes = _pixel_limits(images, (tower.patch * tower.merge) ** 2)
    return [*fields, *limits], notes


def image_config(preprocessor: Mapping[str, Any], problems: list[Problem]) -> Config:
    """The image processor's settings: at the top of preprocessor_config.json, or in processor_config.json's
    `image_processor`."""
    return Config(preprocessor, "preprocessor config", problems).merged("image_processor")


def _pixel_limits(images: Config, pixels_per_token: int) -> tuple[list[Field], list[str]]:
    """How small and how large an image may get, as fields; and a note where llama.cpp's own limit is tighter."""
    size = images.sub("size")
    limits = {}
    for name, spelling in (("min", "shortest_edge"), ("max", "longest_edge")):
        # transformers 5 writes them as edges, though they are numbers of pixels
        owner, key = (images, f"{name}_pixels") if images.has(f"{name}_pixels") else (size, spelling)
        if owner.has(key):
            limits[name] = owner.size(key, most=(1 << 31) - 1)
    if limits.get("min", 1) > limits.get("max", 1 << 31):
        images.complain("min_pixels", limits["min"], f"at most max_pixels, {limits['max']}")
    fields = [Field.uint32(f"clip.vision.image_{name}_pixels", value) for name, value in limits.items()]
    most = limits.get("max", 0)
    if most <= LLAMA_CPP_MAX_TOKENS * pixels_per_token:
        return fields, []
    note = (
        f"the source takes images of up to {most // pixels_per_token} tokens, llama.cpp shrinks them to "
        f"{LLAMA_CPP_MAX_TOKENS}: run it with --image-max-tokens {most // pixels_per_token} for the source's view"
    )
    return fields, [note]
