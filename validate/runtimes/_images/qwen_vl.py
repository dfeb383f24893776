"""Qwen2-VL and what came after it: an image keeps its shape, and becomes a token for every two by two patches."""

from __future__ import annotations

from validate.runtimes._images import base
from validate.runtimes._images.base import Found, Size
from validate.runtimes._optional import optional

MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "qwen3_5_moe")


class Images(base.Images):
    """A still image is one frame of image_grid_thw, (image, 3): frames, rows and columns of patches."""

    kinds = "mm_token_type_ids"
    tile_tokens = 1
    begin, end = "vision_start_token_id", "vision_end_token_id"  # words of the config: what stands around an image

    @property
    def tile(self) -> Size:
        side = int(self.processor.patch_size * self.processor.merge_size)
        return side, side

    def tiles(self, width: int, height: int) -> int:
        return int(self.processor.get_number_of_image_patches(height, width) // self.processor.merge_size**2)

    @property
    def pixel_limits(self) -> Size | None:  # type: ignore[override]
        """transformers calls them edges, though they are numbers of pixels."""
        try:
            return int(self.processor.size["shortest_edge"]), int(self.processor.size["longest_edge"])
        except (KeyError, TypeError):  # a processor of another family
            return None

    @property
    def span(self) -> str:
        return self._placeholder(1)

    def placeholder(self, found: Found, image: int) -> str:
        return self._placeholder(int(found["image_grid_thw"][image].prod()) // self.processor.merge_size**2)

    def _placeholder(self, count: int) -> str:
        return f"{self._mark(self.begin)}{self.token * count}{self._mark(self.end)}"

    def _mark(self, name: str) -> str:
        token = optional(self.config, name)
        return "" if token is None else self.text_of(token)

    def resized(self, found: Found) -> Size:
        _, rows, columns = found["image_grid_thw"][0].tolist()
        return columns * self.processor.patch_size, rows * self.processor.patch_size
