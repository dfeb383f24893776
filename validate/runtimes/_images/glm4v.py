"""GLM-4.1V and its kin: Qwen's way, with marks of their own, and both frames that a still image is counted."""

from __future__ import annotations

from validate.runtimes._images import qwen_vl
from validate.runtimes._images.base import Size

MODELS = ("glm4v", "glm4v_moe", "glm_ocr")


class Images(qwen_vl.Images):
    """image_grid_thw as Qwen's."""

    begin, end = "image_start_token_id", "image_end_token_id"

    @property
    def pixel_limits(self) -> Size | None:  # type: ignore[override]
        limits = super().pixel_limits
        frames = int(self.processor.temporal_patch_size)
        return limits and (limits[0] // frames, limits[1] // frames)
