"""Every family that sees and has files of ours: the stage looks at images, and finds them as the source does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert.validation.stage import STAGE as stage
from tests.fixtures_validate import convert_tiny
from tests.parity.families import Case, families
from tests.validate.test_validate_stage import FEW, report_of

SEEING = {name: variants[0] for name, variants in families().items() if variants[0].image}
OTHERWISE = [name for name, case in SEEING.items() if case.plain_image_tolerance is None]  # in llama.cpp's own order


def measured(name: str, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """The row of a family's F16 file, and report.md."""
    case: Case = SEEING[name]
    assert case.image is not None
    pixels = np.random.default_rng(1).integers(0, 255, (*case.image, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    inputs = convert_tiny(case.make, tmp_path, ["F16"])
    report, page = report_of(stage.Options(images=[tmp_path / "noise.png"], **FEW), inputs, tmp_path)
    (row,) = report["outputs"]
    return row, page


@pytest.mark.parametrize("name", OTHERWISE)
def test_a_runtime_that_sees_otherwise_is_told(name: str, tmp_path: Path) -> None:
    """llama.cpp takes the class token of these towers for a patch: what it sees is not what the source sees."""
    row, page = measured(name, tmp_path)
    assert row["status"] == "failed"
    assert "image_cosine_unresized" in row["reason"]
    assert "image_cosine_unresized" in page


@pytest.mark.parametrize("name", sorted(SEEING.keys() - OTHERWISE))
def test_an_output_that_sees_is_measured(name: str, tmp_path: Path) -> None:
    row, page = measured(name, tmp_path)
    assert row["vision"]["reason"] == ""
    assert [image["name"] for image in row["vision"]["images"]] == ["noise.png", "our drawing"]
    assert row["metrics"]["image_cosine_unresized"] > 0.99
    assert row["metrics"]["image_kl"] < 0.01
    sizes = row["contract"]["image_tokens"]
    assert all("out of range" in d["candidate"] for d in sizes["differences"]), "an edge of no pixels is refused"
    assert sizes["total"] - sizes["equal"] == len(sizes["differences"])
    held = [m for m in row["limits"] if m.startswith("image_") and m != "image_tokens_equal"]
    assert {"image_cosine", "image_cosine_unresized"} <= set(held)
    assert not any(f"{metric} " in row["reason"] for metric in held)
    assert "Vision" in page
