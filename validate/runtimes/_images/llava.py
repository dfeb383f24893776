"""LLaVA 1.5: an image becomes a square of one size, its middle where it is longer than wide, and nothing around it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from validate.runtimes._images import base
from validate.runtimes._images.base import Size, moved_positions
from validate.runtimes._optional import optional

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import PreTrainedModel

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

    # llama.cpp, models/llava.cpp: the class token behind the patches, then positions and choice as if it were in front
    def rules(self, width: int, height: int) -> Sequence[str]:
        order = (
            "llama.cpp gives every patch the position of the one before it, and the class token in place of the first "
            "patch: what it says of images drifts from the source, in every type"
        )
        border = (
            "llama.cpp puts an image that is no square into one with a border, the source cuts out its middle: send "
            "squares where both have to see alike"
        )
        return (*((order,) if self._drops_class_token else ()), *(() if width == height else (border,)))

    @property
    def _drops_class_token(self) -> bool:
        whole = self.config.vision_config.model_type != "clip_vision_model"
        return not whole and bool(self.config.vision_feature_select_strategy == "default")

    def framed(self, picture: Image) -> Image:
        from PIL import Image as pillow

        if picture.width == picture.height:
            return picture
        seen = self.processor(picture, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        return pillow.fromarray(seen.round().clip(0, 255).astype("uint8").transpose(1, 2, 0))

    @contextlib.contextmanager
    def reordered(self, model: PreTrainedModel) -> Iterator[None]:
        import torch

        def without_first_patch(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            (values,) = given  # (image, class token and patches, width)
            return (torch.cat([values[:, 2:], values[:, :1]], 1),)

        if not self._drops_class_token:
            yield
            return
        projector = model.get_submodule("model.multi_modal_projector")
        model.config.vision_feature_select_strategy = "full"
        hook = projector.register_forward_pre_hook(without_first_patch)
        try:
            with moved_positions(model, "embeddings.position_embedding.weight", axis=0):
                yield
        finally:
            hook.remove()
            model.config.vision_feature_select_strategy = "default"
