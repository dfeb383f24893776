"""Every family that sees and has files of ours: the stage looks at images, and finds them as the source does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convert.stages import validate as stage
from tests.fixtures_validate import convert_tiny
from tests.parity.families import Case, families
from tests.validate.test_validate_stage import FEW, report_of

SEEING = {name: variants[0] for name, variants in families().items() if variants[0].image}


@pytest.mark.parametrize("name", SEEING)
def test_an_output_that_sees_is_measured(name: str, tmp_path: Path) -> None:
    case: Case = SEEING[name]
    assert case.image is not None
    pixels = np.random.default_rng(1).integers(0, 255, (*case.image, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    inputs = convert_tiny(case.make, tmp_path, ["F16"])
    report, page = report_of(stage.Options(images=[tmp_path / "noise.png"], **FEW), inputs, tmp_path)
    (row,) = report["outputs"]
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
