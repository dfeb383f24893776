"""Clicks and images, apart from any runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from validate import vision
from validate.vision import Click, ClickTask


@pytest.mark.parametrize(
    ("answer", "point"),
    [
        (
            '<tool_call>\n{"name": "f", "arguments": {"action": "left_click", "coordinate": [3, 4]}}\n</tool_call>',
            (3, 4),
        ),
        ('Sure: {"coordinate": [3.5, 4]} and {"coordinate": [9, 9]}', (3.5, 4)),
        ('{"arguments": {"coordinate": [3]}}', None),
        ('{"arguments": {"coordinate": [NaN, 4]}}', None),
        ('{"arguments": "none"}', None),
        ('{"arguments": {"coordinate": [3, 4]', None),
        ("[3, 4]", None),
        ("", None),
    ],
)
def test_the_point_of_an_answer(answer: str, point: tuple[float, float] | None) -> None:
    assert vision.clicked(answer) == point


def test_clicks_are_scored() -> None:
    tasks = [ClickTask(Path("x"), "", (0, 0, 10, 10))] * 4
    reference = [Click("", p) for p in ((5, 5), (9, 9), (10, 5), None)]  # the right edge is outside
    candidate = [Click("", p) for p in ((5, 5), (12, 13), None, (0, 0))]
    score = vision.score_clicks(tasks, reference, candidate)
    assert (score.accuracy_reference, score.accuracy, score.same, score.well_formed) == (0.5, 0.5, 0.25, 0.75)
    assert score.distance == 2.5
    assert (score.hits_reference, score.hits) == ((True, True, False, False), (True, False, False, True))
    metrics = vision.click_metrics(score)
    assert (metrics["click_rate_reference"], metrics["click_rate"], metrics["click_drop"]) == (0.5, 0.5, 0.0)


def test_no_distance_where_nobody_clicks() -> None:
    score = vision.score_clicks([ClickTask(Path("x"), "", (0, 0, 1, 1))], [Click("", None)], [Click("", None)])
    assert "click_distance" not in vision.click_metrics(score)


def test_click_files(tmp_path: Path) -> None:
    path = tmp_path / "clicks.jsonl"
    rows = [
        {"image": "a.png", "instruction": "one", "box": [1, 2, 3, 4]},
        {"image": "b.png", "instruction": "two", "target": [1, 2, 3, 4], "tools": [{"x": 1}]},
    ]
    path.write_text("\n\n".join(map(json.dumps, rows)) + "\n")
    one, two = vision.read_clicks(path)
    assert one == ClickTask(tmp_path.resolve() / "a.png", "one", (1, 2, 3, 4))
    assert two.tools == [{"x": 1}]
    assert vision.read_clicks(path, 1) == [one]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "clicks.jsonl:1: not a click task"),
        ("[]", "not a click task"),
        ('{"image": "a.png", "instruction": "x", "box": [1, 2, 3]}', "not a click task"),
        ('{"image": "a.png", "instruction": "x", "box": [1, 2, 3, 4], "tools": "f"}', "tools is no list of objects"),
        ('{"image": "a.png", "instruction": "x", "box": [1, 2, 3, 4], "tools": [7]}', "tools is no list of objects"),
        ('{"image": "../a.png", "instruction": "x", "box": [1, 2, 3, 4]}', "outside"),
        ('{"image": "/etc/passwd", "instruction": "x", "box": [1, 2, 3, 4]}', "outside"),
    ],
)
def test_click_files_that_are_none(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "clicks.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=said):
        vision.read_clicks(path)


def test_images_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGBA", (5, 3), (1, 2, 3, 128)).save(tmp_path / "a.png")
    assert vision.read_image(tmp_path / "a.png").shape == (3, 5, 3)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(ValueError, match="not an image"):
        vision.read_image(tmp_path / "b.png")
    monkeypatch.setattr(vision, "MAX_IMAGE_PIXELS", 14)
    with pytest.raises(ValueError, match="5 x 3 pixels"):
        vision.read_image(tmp_path / "a.png")


class Picky:
    """A processor that makes every image at least 56 x 560."""

    def processed_size(self, pixels: np.ndarray) -> tuple[int, int]:
        return max(560, pixels.shape[1]), max(56, pixels.shape[0])


def test_our_drawing_comes_in_a_size_that_nobody_resizes() -> None:
    picky: Any = Picky()
    pixels = vision.drawing_for(picky)
    assert (pixels.shape[1], pixels.shape[0]) == picky.processed_size(pixels) == (560, 196)


def test_our_drawing_is_always_the_same_and_has_no_two_equal_patches() -> None:
    pixels = vision.drawing()
    assert np.array_equal(pixels, vision.drawing())
    patches = {pixels[y : y + 28, x : x + 28].tobytes() for y in range(0, 196, 28) for x in range(0, 280, 28)}
    assert len(patches) == 70


def test_the_next_token_is_judged_on_the_recipes_images_and_the_projector_on_all() -> None:
    def image(name: str, cosine: float, candidate: int, resized: bool = False) -> vision.ImageDrift:
        return vision.ImageDrift(name, 28, 28, resized, 1, cosine, cosine, 0.1, candidate / 10, 0, candidate)

    ours = image(vision.DRAWING, 0.95, 1)
    named = [image("a.png", 0.97, 0, resized=True), image("b.png", 0.99, 0)]
    got = vision.image_metrics([*named, ours])
    assert (got["image_cosine"], got["image_cosine_unresized"]) == (0.95, 0.95)
    assert (got["image_top1"], got["image_kl"]) == (1.0, 0.0)
    assert vision.image_metrics([ours])["image_top1"] == 0.0
    assert "image_cosine_unresized" not in vision.image_metrics(named[:1])
