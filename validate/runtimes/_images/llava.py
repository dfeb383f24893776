"""LLaVA 1.5: an image becomes a square of one size, its middle where it is longer than wide, and nothing around it."""

from __future__ import annotations

from validate.runtimes._images import base
from validate.runtimes._images.base import Size
from validate.runtimes._optional import optional

MODELS = ("llava",)
_SQUARES = ("clip_vision_model", "siglip_vision_model")  # towers that take one size; Pixtral's takes many


class Images(base.Images):
    """The tower's tokens with its class token or without, as vision_feature_select_strategy says."""

    @property
    def tile(self) -> Size:
        size = optional(self.processor, "crop_size") or self.processor.size
        return int(size["width"]), int(size["height"])

    @property
    def tile_tokens(self) -> int:
        tower = self.config.vision_config
        if tower.model_type not in _SQUARES:
            raise ValueError(f"LLaVA's images are known here for {' and '.join(_SQUARES)}, not for {tower.model_type}")
        width, height = self.tile
        patches = (width // int(tower.patch_size)) * (height // int(tower.patch_size))
        first = int(tower.model_type == "clip_vision_model")  # the class token
        return patches + first - int(self.config.vision_feature_select_strategy == "default")  # drops the first, always
