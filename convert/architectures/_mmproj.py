"""The words of an mmproj file: what llama.cpp's clip reads about a vision tower and its images."""

from __future__ import annotations

import math
from dataclasses import dataclass

from convert.architectures._config import Config
from convert.errors import Problem
from convert.gguf_field import Field
from convert.json_types import JsonObject


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
    activation: str  # a key of ACTIVATIONS


# clip.cpp takes quick_gelu when neither is true, and has GELU by its tanh formula only
ACTIVATIONS = {
    "silu": ("clip.use_silu",),
    "gelu": ("clip.use_gelu",),
    "gelu_pytorch_tanh": ("clip.use_gelu",),
    "quick_gelu": (),
}

MAX_IMAGE = 8192  # pixels a side; clip.cpp, load_hparams

# clip.cpp gives Qwen's images 8 to 4096 tokens whatever the file says; --image-min-tokens and -max-tokens change it
LLAMA_CPP_MAX_TOKENS = 4096


PROJECTOR_TYPE = "clip.projector_type"
VISION_PROJECTOR_TYPE = "clip.vision.projector_type"  # where the file may have an encoder of sounds too


def vision_fields(tower: VisionTower, images: Config, projector_key: str = PROJECTOR_TYPE) -> list[Field]:
    """The clip.* fields every projector has; `images` is `image_config`'s."""
    return [
        Field.boolean("clip.has_vision_encoder", True),
        Field.string(projector_key, tower.projector),
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
        Field.float32s("clip.vision.image_std", _deviations(images)),
    ]


def _deviations(images: Config) -> tuple[float, ...]:
    """What pixels are divided by: nothing that is 0 or less."""
    values = images.numbers("image_std", 3)
    if min(values) <= 0:
        images.complain("image_std", list(values), "three numbers above 0")
    return values


def image_config(preprocessor: JsonObject, problems: list[Problem]) -> Config:
    """The image processor's settings: at the top of preprocessor_config.json, or in processor_config.json's
    `image_processor`. What llama.cpp does to every pixel is required of them."""
    images = Config(preprocessor, "preprocessor config", problems).merged("image_processor")
    why = "llama.cpp does so with every image"
    images.require("do_rescale", True, why)
    images.require("do_normalize", True, why)
    factor = images.number("rescale_factor", 1 / 255)
    if not math.isclose(factor, 1 / 255, rel_tol=1e-4):
        images.complain("rescale_factor", factor, "1/255", "llama.cpp divides pixels by 255")
    return images


def pixel_limits(images: Config, pixels_per_token: int) -> tuple[list[Field], list[str]]:
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
        f"{LLAMA_CPP_MAX_TOKENS}: run it with --image-max-tokens {most // pixels_per_token} to match the source"
    )
    return fields, [note]
