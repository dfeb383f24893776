"""Gemma 3: every image becomes a square of one size, between a mark for its begin and one for its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size

if TYPE_CHECKING:
    from PIL.Image import Image

MODELS = ("gemma3",)


class Images(base.Images):
    """Image tokens see each other in both directions, which token_type_ids say."""

    kinds = "token_type_ids"
    options: ClassVar[Mapping[str, object]] = {"do_pan_and_scan": False}  # as Gemma3Processor calls it
    unused = ("num_crops",)
    around = ("\n\n", "\n\n")  # Gemma3Processor's full_image_sequence; llama.cpp's mtmd writes the marks alone

    @property
    def tile(self) -> Size:
        return int(self.processor.size["width"]), int(self.processor.size["height"])

    @property
    def tile_tokens(self) -> int:
        return int(self.config.mm_tokens_per_image)

    @property
    def span(self) -> str:
        return self.text_of(self.config.boi_token_id)

    def placeholder(self, found: Found, image: int) -> str:
        return f"{self.span}{self.token * self.tile_tokens}{self.text_of(self.config.eoi_token_id)}"

    # llama.cpp, clip.cpp: image_resize_pad is PAD_CEIL where a projector says nothing else
    def rules(self, width: int, height: int) -> Sequence[str]:
        border = (
            "llama.cpp puts an image that is no square into one with a black border, the source stretches it: send "
            "squares where both have to see alike"
        )
        return () if width == height else (border,)

    def framed(self, picture: Image) -> Image:
        return picture if picture.width == picture.height else picture.resize(self.tile, self.processor.resample)
