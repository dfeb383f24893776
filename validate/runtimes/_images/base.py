"""What a family of models makes of images, whatever the family.

It is read from the checkpoint's config and its image processor, not from transformers' Processor classes: those want
torchvision for videos, and other packages beside.
"""

from __future__ import annotations

import contextlib
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Size = tuple[int, int]  # width, height in pixels
Found = Mapping[str, np.ndarray]  # what an image processor gives, by the names of the model's inputs


@dataclass(frozen=True)
class ImageInputs:
    """What a model is given of images."""

    arrays: Mapping[str, np.ndarray]  # by the names of the model's inputs
    placeholders: Sequence[str]  # of each image: the text that stands for it, its token once for every embedding
    size: Size  # of the first image, after the source's own resizing


class Images(ABC):
    """What a family makes of images."""

    kinds: ClassVar[str] = ""  # the input in which image tokens are 1 and text is 0, where the model takes one
    options: ClassVar[Mapping[str, object]] = {}  # what the image processor is called with, beside its own settings
    unused: ClassVar[Sequence[str]] = ()  # what it gives and the model does not take
    around: ClassVar[tuple[str, str]] = ("", "")  # text that the source puts in front of an image and behind it
    pixel_limits: Size | None = None  # least and most pixels of a scaled image, where files say

    def __init__(
        self, processor: BaseImageProcessor, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self.processor, self.config, self.tokenizer = processor, config, tokenizer

    # ---- what a family says

    @property
    @abstractmethod
    def tile(self) -> Size:
        """The size of what the vision tower is given at once; the least it is given, where it takes many sizes."""

    @property
    @abstractmethod
    def tile_tokens(self) -> int:
        """The embeddings of a tile."""

    def tiles(self, width: int, height: int) -> int:
        """How many tiles an image of that size becomes."""
        return 1

    def placeholder(self, found: Found, image: int) -> str:
        """What stands for an image in the prompt, of what the processor found."""
        return self.token * self.tile_tokens

    def batched(self, pictures: list[Image]) -> list[Image] | list[list[Image]]:
        """Images as the processor wants those of several prompts."""
        return pictures

    def resized(self, found: Found) -> Size:
        """The size of the first image when the model gets it."""
        height, width = found["pixel_values"].shape[-2:]
        return int(width), int(height)

    def completed(self, embeddings: np.ndarray, found: Found, embed: Callable[[int], np.ndarray]) -> np.ndarray:
        """The embeddings of one image with those of tokens that stand among them, each of which `embed` gives."""
        return embeddings

    # ---- what llama.cpp does by rules of its own, whatever file it is given

    def rules(self, width: int, height: int) -> Sequence[str]:
        """What it does otherwise with an image of that size, a sentence each, what comes of the size last."""
        return ()

    def tokens_by_rule(self, width: int, height: int) -> int | None:
        """The embeddings of an image that it cuts otherwise, 0 where it refuses one; None where it does as the source.

        They follow from the source's settings: a file that states others makes another number.
        """
        return None

    def framed(self, picture: Image) -> Image:
        """The image in a shape that both take as it is."""
        return picture

    @contextlib.contextmanager
    def reordered(self, model: PreTrainedModel) -> Iterator[None]:
        """The source's weights in the order in which it computes an image's tokens."""
        yield

    # ---- what follows

    @functools.cached_property
    def token(self) -> str:
        """The text of the token that an embedding takes the place of."""
        return self.text_of(self.config.image_token_id)

    @property
    def span(self) -> str:
        """What a chat template writes for an image."""
        return self.token

    @property
    def unit(self) -> int:
        """Pixels of an image token's side."""
        return max(1, round(math.sqrt(self.tile[0] * self.tile[1] / self.tile_tokens)))

    def text_of(self, token: int) -> str:
        """The text of an id of the config; raises ValueError where the tokenizer has no such token."""
        text = self.tokenizer.convert_ids_to_tokens(token)
        if not text:
            raise ValueError(f"token {token} of the config is none of the tokenizer's")
        return str(text)

    def tokens(self, width: int, height: int) -> int:
        """How many embeddings an image of that size becomes; raises ValueError for a size that is refused."""
        return self.tiles(width, height) * self.tile_tokens

    def process(self, images: Sequence[np.ndarray]) -> ImageInputs:
        """What the model is given of RGB images, uint8 (height, width, 3)."""
        from PIL import Image

        pictures = self.batched([Image.fromarray(pixels) for pixels in images])
        found = dict(self.processor(pictures, return_tensors="np", **self.options))
        arrays = {name: value for name, value in found.items() if name not in self.unused}
        return ImageInputs(arrays, [self.placeholder(found, i) for i in range(len(images))], self.resized(found))


@contextlib.contextmanager
def moved_positions(model: PreTrainedModel, ending: str, axis: int) -> Iterator[None]:
    """Every position embedding one place later, as for a class token that comes last and is counted first."""
    import torch

    found = [values for name, values in model.named_parameters() if name.endswith(ending)]
    if len(found) != 1:
        raise ValueError(f"the source has {len(found)} parameters called …{ending}, one is wanted")
    try:
        with torch.no_grad():
            found[0].copy_(found[0].roll(1, axis))
        yield
    finally:
        with torch.no_grad():
            found[0].copy_(found[0].roll(-1, axis))
