"""Every family that sees and has files of ours: the stage looks at images, and finds them as the source does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from PIL import Image

from convert.bundle import Role
from convert.validation.stage import STAGE as stage
from tests.fixtures_validate import convert_tiny
from tests.parity.families import IMAGES_NOT_KNOWN, Case, families
from tests.validate.test_validate_stage import FEW, report_of
from validate.vision import drawing

SEEING = {
    name: variants[0] for name, variants in families().items() if variants[0].image and name not in IMAGES_NOT_KNOWN
}
OTHERWISE = [name for name, case in SEEING.items() if case.plain_image_tolerance is None]  # in llama.cpp's own order

FEWER = {"mistral3_vision": 3}  # sizes that llama.cpp does not round otherwise
WIDER = {"internvl": 2.5}  # of which llama.cpp makes three tiles, the source ten


def measured(name: str, tmp_path: Path, *changes: Callable[[Path], None]) -> tuple[dict[str, Any], str]:
    """The row of a family's F16 file for an image of its size and one that is wider, and report.md.

    `changes` damage the projector.
    """
    case: Case = SEEING[name]
    assert case.image is not None
    height, width = case.image
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    Image.fromarray(drawing(int(WIDER.get(name, 2) * width), height)).save(
        tmp_path / "wide.png"
    )  # the two resize noise too differently
    inputs = convert_tiny(case.make, tmp_path, ["F16"])
    for change in changes:
        change(inputs["gguf"].of(Role.PROJECTOR)[0].path)
    named = [tmp_path / "noise.png", tmp_path / "wide.png"]
    report, page = report_of(stage.Options(images=named, **FEW), inputs, tmp_path)
    (row,) = report["outputs"]
    return row, page


@pytest.mark.parametrize("name", SEEING)
def test_an_output_that_sees_is_measured(name: str, tmp_path: Path) -> None:
    row, page = measured(name, tmp_path)
    assert row["vision"]["reason"] == ""
    assert [image["name"] for image in row["vision"]["images"]] == ["noise.png", "wide.png", "our drawing"]
    assert row["metrics"]["image_cosine_unresized"] > 0.999
    assert row["metrics"]["image_kl"] < 0.01
    sizes = row["contract"]["image_tokens"]
    assert sizes["equal"] == sizes["total"] > FEWER.get(name, 5), sizes["differences"]
    held = [m for m in row["limits"] if m.startswith("image_")]
    assert {"image_cosine", "image_cosine_unresized", "image_tokens_equal"} <= set(held)
    assert not any(f"{metric} " in row["reason"] for metric in held), row["reason"]
    assert "Vision" in page


@pytest.mark.parametrize(
    ("name", "seen", "words"),
    [
        ("llava", ["noise.png", "wide.png", "our drawing"], ("in place of the first patch", "cuts out its middle")),
        ("internvl", ["noise.png", "wide.png", "our drawing"], ("the position of the one before it", "grid of tiles")),
        ("gemma3_vision", ["wide.png"], ("a black border, the source stretches it",)),
    ],
)
def test_a_runtime_that_sees_otherwise_is_told(
    name: str, seen: list[str], words: tuple[str, ...], tmp_path: Path
) -> None:
    """What llama.cpp does by itself is no failure of the file; the report says on which images, and how far it is."""
    row, page = measured(name, tmp_path)
    check = row["contract"]["images_by_rule"]
    assert (check["metric"], check["total"]) == (None, len(seen))
    assert [difference["what"] for difference in check["differences"]] == seen
    assert all("cosine" in d["candidate"] or "shape" in d["candidate"] for d in check["differences"])
    for word in words:
        assert word in check["note"]
        assert word in page


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_broken_projector_is_no_rule_of_the_runtime(name: str, tmp_path: Path) -> None:
    def zero_positions(projector: Path) -> None:
        reader = gguf.GGUFReader(projector, "r+")
        tensor = next(t for t in reader.tensors if t.name == "v.position_embd.weight")
        assert np.any(tensor.data)
        tensor.data[:] = 0
        reader.data.flush()

    row, _ = measured(name, tmp_path, zero_positions)
    assert row["status"] == "failed"
    assert "image_cosine_unresized" in row["reason"]
