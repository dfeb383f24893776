"""What became of images: each one, and the worst of all, for an output with vision."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from validate.report.schema import ImageEntry, Output, Report
from validate.report.words import NOTHING, scientific, visible
from validate.vision import judged


@dataclass(frozen=True)
class Image:
    """A row of the long table."""

    name: str
    pixels: str
    tokens: int
    cosine: str
    error: str
    kl: str
    same: bool


@dataclass(frozen=True)
class VisionRow:
    """A row of the short table: the worst of an output's images; of what is said to them, of those that are judged."""

    index: int
    projector: str
    cosine: str
    error: str
    kl: str
    same: int  # next tokens, of so many that are
    judged: int
    rows: list[Image]


def vision_rows(report: Report) -> list[VisionRow]:
    """The outputs that were shown images."""
    return [_vision_row(i, o) for i, o in enumerate(report["outputs"]) if o["vision"]["images"]]


def _vision_row(index: int, output: Output) -> VisionRow:
    vision = output["vision"]
    images, file = vision["images"], vision["projector"]
    projector = " ".join(
        filter(None, (visible(vision["projector_type"]), visible(_bare(file["path"])) if file else ""))
    )
    judged_images = judged(images, lambda image: image["name"])
    return VisionRow(
        index,
        projector or NOTHING,
        _worst(min, (i["cosine_min"] for i in images), _cosine),
        _worst(max, (i["max_error"] for i in images), scientific),
        _worst(max, (i["kl"] for i in judged_images), scientific),
        sum(i["next_reference"] == i["next_candidate"] for i in judged_images),
        len(judged_images),
        [_image(i) for i in images],
    )


def _bare(path: str) -> str:
    return PurePath(path).name


def _image(image: ImageEntry) -> Image:
    pixels = f"{image['width']} × {image['height']}" + (", resized" if image["resized"] else "")
    return Image(
        visible(image["name"]),
        pixels,
        image["tokens"],
        _shown(image["cosine_min"], _cosine),
        _shown(image["max_error"], scientific),
        _shown(image["kl"], scientific),
        image["next_reference"] == image["next_candidate"],
    )


_Form = Callable[[float], str]


def _cosine(value: float) -> str:
    return f"{value:.7f}"


def _shown(value: float | None, form: _Form) -> str:
    return NOTHING if value is None else form(value)


def _worst(pick: Callable[[Sequence[float]], float], values: Iterable[float | None], form: _Form) -> str:
    """The worst, or nothing where one was no number: what could not be measured is not good."""
    known = list(values)
    numbers = [value for value in known if value is not None]
    return form(pick(numbers)) if len(numbers) == len(known) else NOTHING
