"""What becomes of an image: the projector's embeddings, the next token, and where the model clicks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from validate.drift import NotComparable, check_finite, kl
from validate.json_types import Message
from validate.runtimes.base import ReferenceSession, Session

PROMPT = "What is in this picture?"
ANSWER_TOKENS = 96  # a click is about 40
DRAWING = "our drawing"  # the name of the image that goes beside the recipe's own
NO_VISION = "the source takes no images"  # why there is no vision part
MAX_IMAGE_PIXELS = 64_000_000  # larger than any screen; refuses a file that unpacks to gigabytes

Box = tuple[float, float, float, float]
Point = tuple[float, float]
_Image = TypeVar("_Image")


# ---- images


@dataclass(frozen=True)
class ImageAnswer:
    """What the reference makes of an image and a question."""

    name: str
    pixels: np.ndarray  # uint8 (height, width, 3)
    prompt: str  # with IMAGE_MARK
    embeddings: np.ndarray  # (image token, hidden)
    logits: np.ndarray  # (vocab,) of the next token
    processed: tuple[int, int]  # width, height after the source's own resizing
    rules: Sequence[str] = ()  # what llama.cpp does with this image otherwise, whatever file it is given
    by_rule: ImageAnswer | None = None  # where there are some: the image as it sees it, answered by the source

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[1], self.pixels.shape[0]


@dataclass(frozen=True)
class ImageDrift:
    """One image's differences. Where `resized`, they include those of the two resizing methods."""

    name: str
    width: int
    height: int
    resized: bool
    tokens: int
    cosine_min: float
    cosine_mean: float
    max_error: float
    kl: float
    next_reference: int
    next_candidate: int


def read_image(path: Path) -> np.ndarray:
    """RGB uint8 (height, width, 3); raises ValueError for what is not an image or too large a one."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.width * image.height > MAX_IMAGE_PIXELS:
                raise ValueError(f"{path} has {image.width} x {image.height} pixels, at most {MAX_IMAGE_PIXELS} wanted")
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # PIL's words for a broken file
        raise ValueError(f"{path} is not an image that can be read: {error}") from error


def drawing(width: int = 280, height: int = 196) -> np.ndarray:
    """An image for when a recipe names none: a page with a bar, a button and lines.

    Its sides are multiples of 28, so that nothing is resized.
    """
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (width, height), (244, 242, 238))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, width, 24), fill=(38, 70, 120))
    draw.ellipse((width - 60, 50, width - 20, 90), fill=(230, 160, 30))
    draw.rectangle((30, 130, 130, 165), fill=(200, 40, 50), outline=(20, 20, 20))
    for i in range(6):
        draw.line((30, 42 + 13 * i, 150 + 7 * (i % 3), 42 + 13 * i), fill=(60 + 20 * i, 60, 60), width=3)
    gradient = np.asarray(image).astype(np.int16)
    gradient[:, :, 2] -= np.linspace(0, 40, width).astype(np.int16)  # shades both ways: no two patches are equal
    gradient[:, :, 1] -= np.linspace(0, 30, height).astype(np.int16)[:, None]
    return np.clip(gradient, 0, 255).astype(np.uint8)


def drawing_for(reference: ReferenceSession) -> np.ndarray:
    """Our drawing in a size that the source takes as it is."""
    pixels = drawing()
    width, height = reference.processed_size(pixels)
    return pixels if pixels.shape[:2] == (height, width) else drawing(width, height)


def ask(reference: ReferenceSession, name: str, pixels: np.ndarray, text: str = PROMPT) -> ImageAnswer:
    """What the reference makes of an image and a question; computed once for all candidates."""
    prompt = reference.image_prompt(text)
    embeddings, logits = reference.image_embeddings(pixels), reference.image_logits(prompt, pixels)
    answer = ImageAnswer(name, pixels, prompt, embeddings, logits, reference.processed_size(pixels))
    rules = reference.image_rules(*answer.size)
    return replace(answer, rules=rules, by_rule=_by_rule(reference, answer)) if rules else answer


def _by_rule(reference: ReferenceSession, answer: ImageAnswer) -> ImageAnswer:
    """The same picture, in a shape that both sides take as it is, in the order in which llama.cpp computes."""
    pixels, prompt = reference.framed(answer.pixels), answer.prompt
    return ImageAnswer(
        answer.name,
        pixels,
        prompt,
        reference.image_embeddings_by_rule(pixels),
        reference.image_logits_by_rule(prompt, pixels),
        reference.processed_size(pixels),
    )


def compare_image(reference: ImageAnswer, candidate: Session) -> ImageDrift:
    """A candidate's differences for one image; raises NotComparable for another number of tokens, and for NaN."""
    embeddings = candidate.image_embeddings(reference.pixels)
    if embeddings.shape != reference.embeddings.shape:
        raise NotComparable(
            f"{reference.name}: embeddings have shape {embeddings.shape}, the reference's {reference.embeddings.shape} "
            "(image token, hidden)"
        )
    check_finite(embeddings, f"{reference.name}: the projector's")
    check_finite(reference.embeddings, f"{reference.name}: the reference's")
    a, b = reference.embeddings.astype(np.float64), embeddings.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = np.where(norms > 0, (a * b).sum(1) / np.maximum(norms, np.finfo(float).tiny), float(np.array_equal(a, b)))
    logits = candidate.image_logits(reference.prompt, reference.pixels)
    return ImageDrift(
        reference.name,
        *reference.size,
        resized=reference.processed != reference.size,
        tokens=len(a),
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        max_error=float(np.abs(a - b).max()),
        kl=float(kl(reference.logits[None], logits[None])[0]),
        next_reference=int(reference.logits.argmax()),
        next_candidate=int(logits.argmax()),
    )


# ---- clicks


@dataclass(frozen=True)
class ClickTask:
    """A screenshot, what to click there, and the box a click has to hit: x0 <= x < x1, y0 <= y < y1, in pixels."""

    image: Path
    instruction: str
    box: Box
    tools: Sequence[Message] | None = None


@dataclass(frozen=True)
class Click:
    """An answer and the point in it, None where it holds no coordinate."""

    answer: str
    point: Point | None


@dataclass(frozen=True)
class ClickScore:
    """`distance` is the mean of pixels between both sides' clicks, over the tasks where both click."""

    tasks: int
    accuracy_reference: float
    accuracy: float
    same: float  # share of tasks with the same point
    well_formed: float  # share of the candidate's answers that hold a coordinate
    distance: float
    hits: tuple[bool, ...]  # of each task, by the candidate
    hits_reference: tuple[bool, ...]


def read_clicks(path: Path, limit: int | None = None) -> list[ClickTask]:
    """Tasks from a JSON-lines file: `image` (beside the file), `instruction`, `box` or `target`, maybe `tools`.

    Raises ValueError with the line's number for a line that is not a task, or an image outside the file's folder.
    """
    tasks: list[ClickTask] = []
    home = path.parent.resolve()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if limit is not None and len(tasks) >= limit:
            break
        if line.strip():
            tasks.append(_task(line, home, f"{path}:{number}"))
    return tasks


def _task(line: str, home: Path, where: str) -> ClickTask:
    try:
        raw = json.loads(line)
        x0, y0, x1, y1 = map(float, raw.get("box") or raw["target"])
        image = (home / str(raw["image"])).resolve()
        task = ClickTask(image, str(raw["instruction"]), (x0, y0, x1, y1), _tools(raw.get("tools")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{where}: not a click task ({error!r}), wanted image, instruction and target") from error
    if not image.is_relative_to(home):
        raise ValueError(f"{where}: the image {raw['image']!r} lies outside of the file's folder")
    return task


def _tools(raw: object) -> Sequence[Message] | None:
    if raw is not None and not (isinstance(raw, list) and all(isinstance(tool, dict) for tool in raw)):
        raise ValueError("tools is no list of objects")
    return raw


def click(answer: str) -> Click:
    """An answer with the point in it."""
    return Click(answer, clicked(answer))


def clicked(answer: str) -> Point | None:
    """The coordinate of the first JSON object in an answer, as a tool call has it; None where there is none."""
    start = answer.find("{")
    if start < 0:
        return None
    try:
        call, _ = json.JSONDecoder().raw_decode(answer, start)
        x, y = call.get("arguments", call)["coordinate"]
        point = float(x), float(y)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return point if all(map(math.isfinite, point)) else None


def score_clicks(tasks: Sequence[ClickTask], reference: Sequence[Click], candidate: Sequence[Click]) -> ClickScore:
    """Hits of both sides, and how far apart they click."""
    count = len(tasks)
    pairs = [(r.point, c.point) for r, c in zip(reference, candidate, strict=True)]
    hits_reference = tuple(_hits(t.box, r) for t, (r, _) in zip(tasks, pairs, strict=True))
    hits = tuple(_hits(t.box, c) for t, (_, c) in zip(tasks, pairs, strict=True))
    apart = [math.dist(r, c) for r, c in pairs if r is not None and c is not None]
    return ClickScore(
        tasks=count,
        accuracy_reference=sum(hits_reference) / count,
        accuracy=sum(hits) / count,
        same=sum(r == c for r, c in pairs) / count,
        well_formed=sum(c is not None for _, c in pairs) / count,
        distance=sum(apart) / len(apart) if apart else float("nan"),
        hits=hits,
        hits_reference=hits_reference,
    )


def _hits(box: Box, point: Point | None) -> bool:
    return point is not None and box[0] <= point[0] < box[2] and box[1] <= point[1] < box[3]


def judged(images: Sequence[_Image], name: Callable[[_Image], str]) -> Sequence[_Image]:
    """The images after which the next token is judged: the recipe's, ours only where it names none.

    Ours is put beside the recipe's for the projector's sake; what a model says to it is nobody's business.
    """
    return [image for image in images if name(image) != DRAWING] or images


def image_metrics(images: Sequence[ImageDrift]) -> Mapping[str, float]:
    """The worst over all images; nothing when there are none."""
    if not images:
        return {}
    spoken = judged(images, lambda image: image.name)
    exact = [i.cosine_min for i in images if not i.resized]
    return {
        **({"image_cosine_unresized": min(exact)} if exact else {}),
        "image_cosine": min(i.cosine_min for i in images),
        "image_max_error": max(i.max_error for i in images),
        "image_kl": max(i.kl for i in spoken),
        "image_top1": sum(i.next_reference == i.next_candidate for i in spoken) / len(spoken),
    }


def click_metrics(score: ClickScore) -> Mapping[str, float]:
    """The click score as metrics; no distance where the two sides never both click."""
    metrics = {
        "click_rate_reference": score.accuracy_reference,
        "click_rate": score.accuracy,
        "click_drop": score.accuracy_reference - score.accuracy,
        "click_distance": score.distance,
    }
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
