"""InternVL in transformers' layout: an image becomes tiles in the grid nearest to its shape, and itself made small."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size, moved_positions

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import PreTrainedModel

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

    # ---- llama.cpp: models/internvl.cpp for the order, mtmd-image.cpp and set_internvl_dhr_res_candidates for the grid

    def rules(self, width: int, height: int) -> Sequence[str]:
        order = (
            "llama.cpp gives every patch of a tile the position of the one before it: what it says of images drifts "
            "from the source, in every type"
        )
        cut = (
            "llama.cpp cuts an image into the grid of tiles that keeps most of its pixels and wastes least, the source "
            "into the one nearest to its shape: send images of a tile, or of whole tiles, where both have to see alike"
        )
        return (order,) if self._grid_by_rule(width, height) == self._grid(width, height) else (order, cut)

    def tokens_by_rule(self, width: int, height: int) -> int | None:
        columns, rows = grid = self._grid_by_rule(width, height)
        return None if grid == self._grid(width, height) else (columns * rows + 1) * self.tile_tokens

    def _grid(self, width: int, height: int) -> Size:
        """Columns and rows of the source's tiles; none of an image that is one tile, with no small whole beside it."""
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        tile_width, tile_height = self.tile
        columns, rows = get_optimal_tiled_canvas((height, width), (tile_height, tile_width), *self._tile_counts)
        return (int(columns), int(rows)) if columns * rows > 1 else (0, 0)

    @property
    def _tile_counts(self) -> Size:
        return int(self.processor.min_patches), int(self.processor.max_patches)

    def _grid_by_rule(self, width: int, height: int) -> Size:
        """Sizes are scaled in 32 bits and cut to whole pixels, as there."""
        side, (least, most) = self.tile[0], self._tile_counts
        if max(width, height) <= side:
            return 0, 0
        best, kept, waste = (0, 0), 0, math.inf
        for columns in range(least, most + 1):
            for rows in range(max(-(-least // columns), least), most // columns + 1):
                scale = min(
                    np.float32(columns * side) / np.float32(width), np.float32(rows * side) / np.float32(height)
                )
                scaled = int(np.float32(width) * scale) * int(np.float32(height) * scale)
                pixels, area = min(scaled, width * height), columns * rows * side * side
                if pixels > kept or (pixels == kept and area - pixels < waste):
                    best, kept, waste = (columns, rows), pixels, area - pixels
        return best

    def framed(self, picture: Image) -> Image:
        columns, rows = self._grid(picture.width, picture.height)
        if (columns, rows) == self._grid_by_rule(picture.width, picture.height):
            return picture
        least = self._tile_counts[0]
        if min(columns, rows) < least:  # llama.cpp wants so many on each side
            columns = rows = least
        width, height = self.tile
        return picture.resize((columns * width, rows * height), self.processor.resample)

    @contextlib.contextmanager
    def reordered(self, model: PreTrainedModel) -> Iterator[None]:
        with moved_positions(model, "embeddings.position_embeddings", axis=1):
            yield
