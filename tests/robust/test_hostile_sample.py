"""A sample of `make hostile` and what holds it together; all of it runs there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robust import limited
from tests.robust.cases import every
from tests.robust.hostile import stand, table
from tests.robust.limited import Limits

SAMPLE = (
    "index: names up and out",
    "safetensors header: nested 10,000 deep",
    "weights: are a pipe",
    "companion: README.md is a pipe",
    "pickle bomb: sixty million opcodes",
    "evading: behind a good program",
    "GGUF metadata, fitted: 10**12 blocks",
    "ONNX, inspected: weights of an unknown type",
    "recipe: a billion laughs",
    "tokenizer: an id of 10**12",
)


def test_there_are_hundreds_of_every_kind() -> None:
    found = every()
    assert len(found) >= 200
    assert len({case.group for case in found}) >= 20


@pytest.fixture(autouse=True)
def fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that others are forked from is worth it for hundreds, not for ten."""
    monkeypatch.setattr(limited, "_forked", limited._fresh)


@pytest.mark.parametrize("title", SAMPLE)
def test_a_sample_is_stood(title: str, tmp_path: Path) -> None:
    (case,) = [case for case in every() if case.title == title]
    (tmp_path / "case").mkdir()
    outcome = stand(case, tmp_path / "case")
    assert outcome.wrong == "", outcome.said
    assert outcome.how == "refused"
    assert "| all | 1 | 1 | 0 | 0 |" in table([outcome])


def test_what_passes_a_limit_is_ended_and_named(tmp_path: Path) -> None:
    case = next(case for case in every() if case.title == "checkpoint: truncated")
    (tmp_path / "case").mkdir()
    outcome = stand(case, tmp_path / "case", Limits(seconds=60, memory_bytes=1 << 20))
    assert outcome.wrong.startswith("took ")
