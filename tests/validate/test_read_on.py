"""Texts read in steps: each candidate as far as its limits need, the reference as far as the last of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.progress import Silent
from tests.validate.test_measures import InPlace, Writer
from validate import compare
from validate.errors import RuntimeFailure
from validate.measurement import Candidate, Measurement, Questions, Settings
from validate.reference import Reference
from validate.runtimes import ReferenceSession, Session

WINDOWS = [np.random.default_rng(i).integers(0, 50, 64).tolist() for i in range(16)]
STEPS = (4, 8, 16)
NEAR = 0.0143  # the mean KL of the noise below, in the middle of its interval


class Reader(Writer):
    """Counts the windows that it reads."""

    def __init__(self) -> None:
        self.read: list[Sequence[int]] = []

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        self.read.append(tokens)
        return super().logits(tokens)


class Noisy(Reader):
    """The reference's logits and a little noise, the same whenever a window is read."""

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        noise = np.random.default_rng(list(tokens)).standard_normal((len(tokens), 50)) * 0.17
        return (super().logits(tokens) + noise).astype(np.float32)


class Opened(InPlace):
    """Counts how often it is opened; breaks when it is opened for the `breaks`th time."""

    def __init__(self, session: Session, breaks: int = 0) -> None:
        super().__init__(session)
        self.opened, self.breaks = 0, breaks

    def open(self, model: Path, **options: Any) -> Session:
        self.opened += 1
        if self.opened == self.breaks:
            raise RuntimeFailure("gone")
        return super().open(model, **options)


def measured(
    runtimes: Sequence[Opened],
    limit: float,
    *,
    steps: Sequence[int] = STEPS,
    reference: ReferenceSession | None = None,
    kept: Path | None = None,
) -> list[Measurement]:
    limits = {"kl_mean": limit, "tokens_equal": 1.0}
    candidates = [
        Candidate(Path(f"{number}"), None, runtime, 1, key=str(number), limits=limits)
        for number, runtime in enumerate(runtimes)
    ]
    asked = Reference(reference or Writer(), None, "", 1 << 20)
    return compare.measure(asked, candidates, Questions(WINDOWS, steps=steps), Settings(1, kept), Silent())


def test_each_candidate_reads_until_its_limits_are_decided_and_the_reference_as_far_as_the_last() -> None:
    equal, near = Opened(Reader()), Opened(Noisy())
    reference = Reader()
    one, other = measured([equal, near], NEAR, reference=reference)
    assert one.failures == other.failures == []
    assert (equal.opened, near.opened) == (1, 3)
    assert one.reading is not None
    assert other.reading is not None
    assert (one.reading.windows, one.reading.tokens, one.reading.decided) == (4, 256, True)
    assert (other.reading.windows, other.reading.tokens, other.reading.decided) == (16, 1024, False)
    assert other.reading.reason.startswith("not decided after 1,024 tokens, where the texts end: kl_mean 0.01")
    assert (len(one.windows), len(other.windows)) == (4, 16)
    assert [w for w in reference.read if w in WINDOWS] == WINDOWS


def test_nobody_reads_on_when_everything_is_decided() -> None:
    equal, far = Opened(Reader()), Opened(Noisy())
    reference = Reader()
    found = measured([equal, far], NEAR / 4, reference=reference)
    assert [one.reading and one.reading.decided for one in found] == [True, True]
    assert [w for w in reference.read if w in WINDOWS] == WINDOWS[:4]
    assert (equal.opened, far.opened) == (1, 1)


def test_reading_in_steps_measures_what_reading_at_once_does() -> None:
    (steps,), (once,) = measured([Opened(Noisy())], NEAR), measured([Opened(Noisy())], NEAR, steps=())
    assert once.reading is None
    for name in ("kl_mean", "top1", "ppl_ratio", "kl_p95", "greedy_equal"):
        assert steps.metrics[name] == pytest.approx(once.metrics[name]), name
    assert steps.windows == once.windows
    assert steps.slices == once.slices
    assert steps.intervals["kl_mean"] == pytest.approx(once.intervals["kl_mean"])


def test_what_breaks_when_it_reads_on_fails_and_the_others_go_on() -> None:
    breaks, near = Opened(Noisy(), breaks=2), Opened(Noisy())
    one, other = measured([breaks, near], NEAR)
    assert one.failures == ["gone"]
    assert one.reading is None
    assert breaks.opened == 2
    assert other.failures == []
    assert len(other.windows) == 16


def test_what_was_read_is_kept_with_its_limits(tmp_path: Path) -> None:
    runtime = Opened(Noisy())
    (first,) = measured([runtime], NEAR, kept=tmp_path)
    (again,) = measured([runtime], NEAR, kept=tmp_path)
    assert runtime.opened == 3
    assert again.reading == first.reading
    (other,) = measured([runtime], NEAR / 4, kept=tmp_path)  # a limit that is decided sooner
    assert runtime.opened == 4
    assert len(other.windows) == 4
