"""Pixtral's tower: an image keeps its shape, and becomes rows of tokens with a mark behind each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size
from validate.runtimes._optional import optional

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = ("mistral3", "pixtral")
BREAK, END = "[IMG_BREAK]", "[IMG_END]"
LEAST, MOST = 8, 1024  # tokens of an image in llama.cpp (clip.cpp, load_hparams), without the marks


class Images(base.Images):
    """What stands between the rows are tokens of the text model; llama.cpp embeds them with the image."""

    marks = (BREAK, END)  # behind each row but the last, and behind that
    tile_tokens = 1

    @property
    def options(self) -> Mapping[str, object]:  # type: ignore[override]
        """As PixtralProcessor calls the image processor: for squares of patches, not for patches."""
        return {"patch_size": {"height": self.tile[1], "width": self.tile[0]}}

    @property
    def tile(self) -> Size:
        side = int(self.config.vision_config.patch_size) * int(optional(self.config, "spatial_merge_size") or 1)
        return side, side

    def tokens(self, width: int, height: int) -> int:
        columns, rows = self._grid(width, height)
        return self._count(columns, rows)

    def placeholder(self, found: Found, image: int) -> str:
        height, width = map(int, found["image_sizes"][image])
        row = self.token * (width // self.tile[0])
        between, behind = self.marks
        return between.join([row] * (height // self.tile[1])) + behind

    def resized(self, found: Found) -> Size:
        height, width = found["image_sizes"][0]
        return int(width), int(height)

    def completed(self, embeddings: np.ndarray, found: Found, embed: Callable[[int], np.ndarray]) -> np.ndarray:
        between = self.marks[0]
        if not between:
            return embeddings
        columns = int(found["image_sizes"][0][1]) // self.tile[0]
        mark = embed(int(self.tokenizer.convert_tokens_to_ids(between)))
        return np.insert(embeddings, range(columns, len(embeddings), columns), mark, axis=0)

    def _count(self, columns: int, rows: int) -> int:
        return columns * rows + (rows - 1 if self.marks[0] else 0)

    def _grid(self, width: int, height: int) -> Size:
        """Columns and rows of the source's tokens: none is cut, and the longer side is within its edge."""
        size = self.processor.size
        edges = (size["longest_edge"],) * 2 if "longest_edge" in size else (size["width"], size["height"])
        ratio = max(width / edges[0], height / edges[1])
        if ratio > 1:
            width, height = math.floor(width / ratio), math.floor(height / ratio)
        return (width - 1) // self.tile[0] + 1, (height - 1) // self.tile[1] + 1

    # ---- llama.cpp, mtmd-image.cpp: calc_size_preserved_ratio, and a border (clip-model.h: PAD_CEIL)

    def rules(self, width: int, height: int) -> Sequence[str]:
        other = (
            "llama.cpp rounds an image's sides to whole tokens where the source rounds them up, gives it 8 to 1024 "
            "tokens, and puts what is left into a black border: send images in sizes that both take as they are"
        )
        grid = self._grid(width, height)
        wide, high = grid[0] * self.tile[0], grid[1] * self.tile[1]
        scale = min(wide / width, high / height)
        filled = (math.ceil(width * scale - 1e-6), math.ceil(height * scale - 1e-6)) == (wide, high)
        return () if filled and self._grid_by_rule(width, height) == grid else (other,)

    def tokens_by_rule(self, width: int, height: int) -> int | None:
        grid = self._grid_by_rule(width, height)
        return None if grid == self._grid(width, height) else self._count(*grid)

    def _grid_by_rule(self, width: int, height: int) -> Size:
        """Sides in 32 bits, as there."""
        side = self.tile[0]
        columns, rows = (
            max(1, int(np.floor(np.float32(n) / np.float32(side) + np.float32(0.5)))) for n in (width, height)
        )
        if columns * rows > MOST:
            by = np.sqrt(np.float32(height) * np.float32(width) / np.float32(MOST * side * side))
            columns, rows = (max(1, int(np.floor(np.float32(n) / by / np.float32(side)))) for n in (width, height))
        elif columns * rows < LEAST:
            by = np.sqrt(np.float32(LEAST * side * side) / (np.float32(height) * np.float32(width)))
            columns, rows = (int(np.ceil(np.float32(n) * by / np.float32(side))) for n in (width, height))
        return columns, rows

    def framed(self, picture: Image) -> Image:
        columns, rows = self._grid_by_rule(picture.width, picture.height)
        size = columns * self.tile[0], rows * self.tile[1]
        return picture if size == picture.size else picture.resize(size, self.processor.resample)
