"""What a precision's files weigh is known before they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from convert.bundle import Bundle, Role
from convert.formats.onnx.stage import STAGE as stage
from tests import tiny
from tests.fixtures_gguf import source_inputs
from tests.onnx.graphs import export


def data_bytes(bundle: Bundle) -> dict[str, int]:
    files = [*bundle.of(Role.WEIGHTS), *bundle.of(Role.PROJECTOR)]
    return {artifact.path.name: artifact.size for artifact in files if artifact.path.name.endswith("_data")}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (tiny.tiny_qwen2, {"tied": True, "vocab": 1024, "hidden": 96, "heads": 4}),
        (tiny.tiny_qwen2_5_vl, {"vision_hidden": 128}),
    ],
)
def test_the_forecast_counts_every_weight_as_it_is_stored(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    """The table beside a tied head, eight bits for the head and the vision tower, blocks that are filled up."""
    source = make(tmp_path / "Tiny", **options)
    words = {"precision": ("fp16", "int8", "int4"), "symmetric": False}
    predicted = data_bytes(stage.forecast(stage.Options(layout="flat", **words), source_inputs(source)))
    made = data_bytes(export(source, tmp_path / "out", **words))
    assert predicted.keys() == made.keys()
    for name, size in made.items():
        assert abs(predicted[name] - size) < 0.04 * size + 4096, name  # norms and biases, and gaps between weights
