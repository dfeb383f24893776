"""What was measured is found again by content, whole, and only then."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.progress import Silent
from tests.validate.test_measures import WINDOWS, InPlace, Table, Writer
from validate import compare
from validate.measured import Measured
from validate.measurement import Candidate, Measurement, Questions, Settings
from validate.reference import Reference
from validate.runtimes import Session


class Counted(InPlace):
    """Counts how often it is opened."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self.opened = 0

    def open(self, model: Path, **options: Any) -> Session:
        self.opened += 1
        return super().open(model, **options)


def measured(runtime: Counted, kept: Path, key: str = "a", questions: Questions | None = None) -> Measurement:
    candidate = Candidate(Path("x"), None, runtime, 1, key=key)
    reference = Reference(Writer(), None, "", 1 << 20)
    return compare.measure(reference, [candidate], questions or Questions(WINDOWS), Settings(1, kept=kept), Silent())[0]


def as_plain(found: Measurement) -> dict[str, str]:
    """Each field as text, a tuple as the list it is read back as."""
    return {name: repr(value).replace("()", "[]") for name, value in vars(found).items()}


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    runtime = Counted(Writer())
    first = measured(runtime, tmp_path)
    second = measured(runtime, tmp_path)
    assert runtime.opened == 1
    assert first.metrics == second.metrics
    for name in ("greedy", "checks", "windows", "worst", "slices", "quantiles"):
        one, other = as_plain(first)[name], as_plain(second)[name]
        assert one == other, name
    assert {n: d.tolist() for n, d in first.draws.items()} == {n: d.tolist() for n, d in second.draws.items()}


def test_another_file_or_another_question_is_measured(tmp_path: Path) -> None:
    runtime, other = Counted(Writer()), Questions([[1, 2, 3, 4]])
    asked = [("a", None), ("a", None), ("b", None), ("b", other), ("b", other), ("", None), ("", None)]
    opened = []
    for key, questions in asked:
        measured(runtime, tmp_path, key, questions)
        opened.append(runtime.opened)
    assert opened == [1, 1, 2, 3, 3, 4, 5]
    assert list(tmp_path.iterdir()) == [], "the last asked for nothing that is kept"


def test_what_failed_is_measured_again(tmp_path: Path) -> None:
    runtime = Counted(Table())
    assert measured(runtime, tmp_path).failures == ["greedy: this runtime has no generate"]
    measured(runtime, tmp_path)
    assert runtime.opened == 2


@pytest.mark.parametrize("suffix", [".json", ".npz"])
@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_broken_file_is_measured_again(tmp_path: Path, suffix: str, cut: int) -> None:
    runtime = Counted(Writer())
    first = measured(runtime, tmp_path)
    (path,) = tmp_path.glob(f"*{suffix}")
    path.write_bytes(path.read_bytes()[:cut])
    assert measured(runtime, tmp_path).metrics == first.metrics
    assert runtime.opened == 2


def test_numbers_that_are_none_are_kept(tmp_path: Path) -> None:
    questions, one = Questions(WINDOWS), Candidate(Path("x"), None, None, 1, key="a")
    found = Measurement(metrics={"kl_max": math.inf, "ppl": math.nan}, draws={"kl_mean": np.array([1.0, math.nan])})
    Measured(tmp_path, questions).save(one, found)
    again = Measured(tmp_path, questions).load(one)
    assert again is not None
    assert again.metrics["kl_max"] == math.inf
    assert math.isnan(again.metrics["ppl"])
    np.testing.assert_array_equal(again.draws["kl_mean"], found.draws["kl_mean"])
