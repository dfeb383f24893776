"""Idefics 3 and SmolVLM: an image is scaled to one length, cut into tiles, and itself made small comes behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = ("idefics3", "smolvlm")
_MARK, _WHOLE = "<fake_token_around_image>", "<global-img>"


class Images(base.Images):
    """pixel_values are (prompt, tile, 3, height, width); rows and cols, (prompt, image), say how they lie."""

    options: ClassVar[Mapping[str, object]] = {"return_row_col_info": True}
    unused = ("rows", "cols")

    @property
    def tile(self) -> Size:
        side = int(self.processor.max_image_size["longest_edge"])
        return side, side

    @property
    def tile_tokens(self) -> int:
        side = self.tile[0] // self.config.vision_config.patch_size // self.config.scale_factor
        return int(side**2)

    def tiles(self, width: int, height: int) -> int:
        rows, columns = self.processor.get_number_of_image_patches(height, width)[1:]
        return int(rows * columns) + 1

    def batched(self, pictures: list[Image]) -> list[list[Image]]:
        return [[picture] for picture in pictures]

    def placeholder(self, found: Found, image: int) -> str:
        rows, columns = _grid(found, image)
        tile = self.token * self.tile_tokens
        marks = ([f"{_MARK}<row_{y}_col_{x}>{tile}" for x in range(1, columns + 1)] for y in range(1, rows + 1))
        above = "".join(f"{''.join(row)}\n" for row in marks)
        return f"{above}\n{_MARK}{_WHOLE}{tile}{_MARK}" if above else f"{_MARK}{_WHOLE}{tile}{_MARK}"

    def resized(self, found: Found) -> Size:
        """All tiles together; the small whole is left out."""
        rows, columns = _grid(found, 0)
        width, height = super().resized(found)
        return width * max(1, columns), height * max(1, rows)

    # llama.cpp, mtmd-image.cpp: the shorter side of a scaled image is cut to whole pixels, of which there may be none
    def rules(self, width: int, height: int) -> Sequence[str]:
        thin = (
            "llama.cpp refuses an image whose shorter side is scaled to less than a pixel, the source makes it one: "
            "cut such images, or put a border around them"
        )
        return () if self.tokens_by_rule(width, height) is None else (thin,)

    def tokens_by_rule(self, width: int, height: int) -> int | None:
        edge, shape = int(self.processor.size["longest_edge"]), width / height
        return None if int(edge / shape if width >= height else edge * shape) else 0


def _grid(found: Found, image: int) -> Size:
    """Rows and columns of an image's tiles; none where it is not cut. Every prompt has one image."""
    rows, columns = ([n for row in found[name] for n in row] for name in ("rows", "cols"))
    return int(rows[image]), int(columns[image])
