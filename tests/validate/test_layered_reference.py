"""A reference that is read one layer at a time: the report of the whole model's, number for number."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.bundle import Bundle
from convert.cli import main
from convert.model import layered, resume
from convert.model.layered import Layer, Through
from convert.model.session import LayeredSession
from convert.progress import Silent
from convert.validation.stage import STAGE as stage
from tests import tiny
from tests.fixtures_validate import tiny_text, tiny_vision
from validate.runtimes.transformers import TransformersSession

__all__ = ["tiny_text", "tiny_vision"]  # fixtures

FEW = {"tokens": 96, "window": 48, "threads": 1}
CLOCKED = {"speed", "seconds", "memory"}


@pytest.fixture(autouse=True)
def small_matrices_are_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embedding and head are read for themselves, as those of large models are."""
    monkeypatch.setattr(layered, "LARGE", 64 * 200)


class Listener(Silent):
    def __init__(self) -> None:
        self.notes = list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)


def report_of(inputs: dict[str, Bundle], out: Path, said: Silent, **words: Any) -> dict[str, Any]:
    out = out / "demo" / "validate.partial"
    out.mkdir(parents=True, exist_ok=True)
    stage.run(stage.Options(**FEW, **words), inputs, out, said)
    content: dict[str, Any] = json.loads((out / "report.json").read_text())
    return content


def numbers(value: Any) -> Any:
    """All of a report but what a clock or the machine says."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items() if k not in CLOCKED and "per_second" not in k}
    return [numbers(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind", ["tiny_text", "tiny_vision"])
def test_the_same_report(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = request.getfixturevalue(kind)
    opened = list[str]()
    for session in (TransformersSession, LayeredSession):
        before = session.__init__

        def note(self: Any, *args: Any, _before: Any = before, **words: Any) -> None:
            opened.append(type(self).__name__)
            _before(self, *args, **words)

        monkeypatch.setattr(session, "__init__", note)
    whole = report_of(inputs, tmp_path / "whole", Silent(), reference={"layered": False})
    assert set(opened) == {"TransformersSession"}
    opened.clear()
    parts = report_of(inputs, tmp_path / "parts", Silent(), reference={"layered": True})
    assert set(opened) == {"LayeredSession"}
    assert [row["status"] for row in parts["outputs"]] == [row["status"] for row in whole["outputs"]]
    for one, other in zip(parts["outputs"], whole["outputs"], strict=True):
        assert numbers(one) == numbers(other)
        assert one["metrics"]["kl_mean"] is not None
    if kind == "tiny_vision":
        assert parts["outputs"][0]["vision"]["images"]
    assert numbers(parts["reference"]) == numbers(whole["reference"])


def test_a_run_that_is_stopped_goes_on_at_its_layer(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "SECONDS", 0.0)
    seen, plain = list[str](), Through.visit
    undisturbed = report_of(tiny_text, tmp_path / "other", Silent(), reference={"layered": True})

    def visit(self: Through, layer: Layer, calls: Any) -> Any:
        seen.append(layer.name)
        if layer.name == "model.layers.1" and seen.count(layer.name) == 1:
            raise KeyboardInterrupt
        return plain(self, layer, calls)

    monkeypatch.setattr(Through, "visit", visit)
    with pytest.raises(KeyboardInterrupt):
        report_of(tiny_text, tmp_path, Silent(), reference={"layered": True})
    (left,) = (tmp_path / "demo" / ".convert" / "passes" / "validate").iterdir()
    seen[:] = ["model.layers.1"]
    listener = Listener()
    report = report_of(tiny_text, tmp_path, listener, reference={"layered": True})
    assert "goes on behind model.layers.0, where the last run was" in listener.notes
    until = list(itertools.takewhile(lambda name: name != "lm_head", seen[1:]))
    assert "model.layers.0" not in until
    assert numbers(report["outputs"]) == numbers(undisturbed["outputs"])
    assert not left.exists()


RECIPE = """
name: r
model: {path: Tiny}
stages:
  gguf: {use: gguf, from: source, types: [F32]}
validate: {tokens: 64, window: 32, threads: 1, reference: {layered: true, dtype: bfloat16}}
"""


def test_in_half_the_type_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reference that rounds everything it computes is another one: an exact file drifts from it."""
    monkeypatch.chdir(tmp_path)
    tiny.tiny_llama(tmp_path / "Tiny")
    (tmp_path / "r.yaml").write_text(RECIPE)
    result = CliRunner().invoke(main, ["run", str(tmp_path / "r.yaml")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (row,) = json.loads((tmp_path / "out/r/report.json").read_text())["outputs"]
    assert 1e-7 < row["metrics"]["kl_mean"] < 1e-2
