"""InternVL in transformers' layout: an image becomes tiles in the grid nearest to its shape, and itself made small."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size

MODELS = ("internvl",)


class Images(base.Images):
    """pixel_values are (tile, 3, height, width) of all images; num_patches says how many each has."""

    options: ClassVar[Mapping[str, object]] = {"crop_to_patches": True}  # as InternVLProcessor calls it
    unused = ("num_patches",)

    @property
    def tile(self) -> Size:
        return int(self.processor.size["width"]), int(self.processor.size["height"])

    @property
    def tile_tokens(self) -> int:
        (rows, columns), tower = self.config.vision_config.patch_size, self.config
        width, height = self.tile
        return int(width / columns * tower.downsample_ratio) * int(height / rows * tower.downsample_ratio)

    def tiles(self, width: int, height: int) -> int:
        return int(self.processor.get_number_of_image_patches(height, width, dict(self.options)))

    def placeholder(self, found: Found, image: int) -> str:
        return f"<img>{self.token * self.tile_tokens * int(found['num_patches'][image])}</img>"
