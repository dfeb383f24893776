"""A source that sees, and can be shown no image here: the report says why, and measures the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convert.bundle import Artifact, Bundle
from convert.validation.stage import STAGE as stage
from tests.fixtures_validate import tiny_vision
from tests.validate.test_validate_stage import FEW, report_of
from validate import runtimes, vision
from validate.runtimes import transformers

__all__ = ["tiny_vision"]  # a fixture


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("[]", "the image processor does not load"),
        ('{"image_processor_type": "CLIPImageProcessor"}', "the image processor does not suit the model"),
    ],
)
def test_a_source_that_can_be_shown_no_image_is_measured_on_text(
    tiny_vision: dict[str, Bundle], tmp_path: Path, named: bool, broken: str, words: str
) -> None:
    """Why is said; it fails the output only where the recipe wants images looked at."""
    (tmp_path / "preprocessor_config.json").write_text(broken)
    preprocessor = Artifact("json", tmp_path / "preprocessor_config.json", len(broken), "0" * 64)
    inputs = tiny_vision | {"source": tiny_vision["source"].with_(preprocessor=preprocessor)}
    Image.fromarray(vision.drawing(112, 84)).save(tmp_path / "0.png")
    options = stage.Options(images=[tmp_path / "0.png"] if named else [], **FEW)
    report, page = report_of(options, inputs, tmp_path)
    (row,) = report["outputs"]
    assert row["metrics"]["kl_mean"] < 1e-4
    assert row["status"] == ("failed" if named else "passed"), row["reason"]
    assert row["vision"]["reason"].startswith(f"the source cannot be shown an image: {words}")
    assert words in page
    if named:
        assert "the recipe names images or clicks, but the source cannot be shown an image" in row["reason"]


def test_a_source_that_fails_at_an_image_fails_no_output(
    tiny_vision: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise runtimes.RuntimeFailure("transformers could not run the source: no such thing")

    monkeypatch.setattr(transformers.TransformersSession, "image_logits", fails)
    report, page = report_of(stage.Options(**FEW), tiny_vision, tmp_path)
    (row,) = report["outputs"]
    assert row["status"] == "passed", row["reason"]
    assert "transformers could not run the source: no such thing" in row["vision"]["reason"]
    assert "transformers could not run the source: no such thing" in page
