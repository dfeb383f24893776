"""Images as a graph takes them: resized, cut and normalized as preprocessor_config.json says, else as ImageNet's are.

file -> RGB -> resized -> middle cut out -> * rescale_factor -> - mean, / std -> (1, 3, height, width) or channels last
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.errors import InputError
from convert.json_types import JsonObject

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which classifiers are trained on
SIZE = 224
LARGEST = 1 << 26  # pixels of an image: 8192 x 8192
BILINEAR = 2  # PIL's number


@dataclass(frozen=True)
class Preprocessing:
    """What becomes of an image before a graph reads it."""

    height: int
    width: int
    shortest: int | None = None  # the shorter side before the middle is cut out; None: straight to height and width
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    factor: float = 1 / 255
    resample: int = BILINEAR
    channels_last: bool = False

    def __call__(self, path: Path) -> np.ndarray:
        """float32 (1, 3, height, width), or with the channels last. Raises InputError for what is no image."""
        from PIL import Image

        try:
            with Image.open(path) as found:
                if found.width * found.height > LARGEST:
                    raise InputError(str(path), f"is {found.width} x {found.height} pixels", f"at most {LARGEST}")
                image = found.convert("RGB")
        except InputError:
            raise
        except Exception as error:  # a file that only looks like an image: PIL raises all kinds of errors
            raise InputError(str(path), f"is no image ({type(error).__name__})", "a PNG or JPEG file") from error
        pixels = np.asarray(self._sized(image), np.float32) * np.float32(self.factor)
        pixels = (pixels - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return pixels[None] if self.channels_last else np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])

    def _sized(self, image: Image) -> Image:
        if self.shortest is None:
            return image.resize((self.width, self.height), self.resample)
        scale = self.shortest / min(image.size)
        sides = [max(self.shortest, round(side * scale)) for side in image.size]
        image = image.resize((sides[0], sides[1]), self.resample)
        left, top = (sides[0] - self.width) // 2, (sides[1] - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))


def preprocessing(shape: Sequence[int | str | None], said: JsonObject) -> Preprocessing:
    """For a graph's input of this shape, by a preprocessor_config.json or nothing. Raises InputError."""
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        listed = ", ".join(map(str, shape))
        raise InputError("onnx", f"the graph takes ({listed})", "images of three channels: (batch, 3, height, width)")
    last = shape[1] != 3
    axes = (shape[1], shape[2]) if last else (shape[2], shape[3])
    cut = said.get("crop_size") if said.get("do_center_crop", "crop_size" in said) else None
    height, width = (
        axis if isinstance(axis, int) and axis > 0 else _side(cut or said.get("size"), name)
        for axis, name in zip(axes, ("height", "width"), strict=True)
    )
    shortest = _shortest(said.get("size")) if cut is not None else None
    plain = said.get("do_normalize", True) is False
    return Preprocessing(
        height,
        width,
        None if shortest is None else max(shortest, height, width),
        (0.0, 0.0, 0.0) if plain else _three(said.get("image_mean"), MEAN),
        (1.0, 1.0, 1.0) if plain else _three(said.get("image_std"), STD),
        1.0 if said.get("do_rescale", True) is False else _number(said.get("rescale_factor"), 1 / 255),
        said["resample"] if said.get("resample") in range(6) else BILINEAR,
        last,
    )


def _side(size: object, name: str) -> int:
    if isinstance(size, Mapping):
        size = size.get(name, size.get("shortest_edge"))
    return size if isinstance(size, int) and 0 < size <= 1 << 13 else SIZE


def _shortest(size: object) -> int | None:
    """The length of the shorter side, where that is what is said."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge")
    return size if isinstance(size, int) and 0 < size <= 1 << 13 else None


def _three(value: object, default: tuple[float, ...]) -> tuple[float, ...]:
    numbers = tuple(float(one) for one in value if isinstance(one, int | float)) if isinstance(value, list) else ()
    return numbers if len(numbers) == 3 else default


def _number(value: object, default: float) -> float:
    return float(value) if isinstance(value, int | float) and value else default
