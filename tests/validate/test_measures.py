"""Measures and runtimes are found, also those of another package, and each is made when it says that it is."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.bundle import Bundle
from convert.progress import Silent
from convert.validation.stage import STAGE as stage
from tests import processes
from tests.fixtures_validate import tiny_text, weights
from tests.validate.stand_ins import SaysNothing
from validate import compare, measures, runtimes
from validate.errors import RuntimeFailure
from validate.measurement import Candidate, Measurement, Questions, Settings, TensorError
from validate.measures.base import Comparison, FileMeasure, RunningCandidate, SessionMeasure, WindowMeasure
from validate.reference import Reference
from validate.runtimes import Identity, Runtime, Session

__all__ = ["tiny_text"]  # fixtures

WINDOWS = [[1, 2, 3, 4, 5, 6, 7, 8], [3, 1, 4, 1, 5, 9, 2, 6]]

TOY = '''
import os
import numpy as np
from validate.runtimes import Identity, ReferenceSession, Runtime, Session
from validate.measures.base import SessionMeasure

class ToySession(ReferenceSession):
    def identity(self): return Identity(50)
    def tokenize(self, text, *, add_special=False, parse_special=True): return [ord(c) % 50 for c in text]
    def detokenize(self, tokens): return " ".join(map(str, tokens))
    def pieces(self): return [f"w{i}" for i in range(50)]
    def logits(self, tokens): return np.sin(np.outer(np.arange(1, len(tokens) + 1), np.arange(50))).astype(np.float32)
    def decode_logits(self, tokens): return self.logits(tokens)
    def generate(self, tokens, count): return [7] * count
    def choices(self, prompts, drafts): return [[7] * (len(draft) + 1) for draft in drafts]
    def render(self, messages, tools, generation_prompt, templates=None): return "rendered"

class Toy(Runtime):
    NAME, FORMATS = "Toy", ("toy",)
    def version(self): return "toy 1"
    def open(self, model, *, projector=None, context=512, threads=None): return ToySession()

class Length(SessionMeasure):
    """How long three tokens are as text."""
    PART = "length"
    def measure(self, opened):
        opened.result.metrics["positions"] += len(opened.session.detokenize([1, 2, 3]))

RUNTIME = Toy()
NO_RUNTIME = object()
'''
ENTRY_POINTS = """
[convert.runtimes]
toy = toy_runtime:RUNTIME
wrong = toy_runtime:NO_RUNTIME
[convert.measures]
length = toy_runtime:Length
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A package as pip would have installed it."""
    home = tmp_path / "site"
    (home / "toy-1.dist-info").mkdir(parents=True)
    (home / "toy-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (home / "toy-1.dist-info" / "entry_points.txt").write_text(ENTRY_POINTS)
    (home / "toy_runtime.py").write_text(TOY)
    monkeypatch.syspath_prepend(home)
    yield lambda: importlib.import_module("toy_runtime")
    sys.modules.pop("toy_runtime", None)


def test_another_packages_runtime_is_listed_without_being_imported_and_runs_in_a_process_of_its_own(toy: Any) -> None:
    assert {"toy", "llama_cpp"} <= set(runtimes.names())
    assert "toy_runtime" not in sys.modules
    runtime = runtimes.load("toy")
    with runtimes.open_session(runtime, Path("x.toy")) as session:
        assert type(session).__name__ == "IsolatedSession"
        assert session.tokenize("12") == [49, 0]
        assert session.logits([1, 2]).shape == (2, 50)
        assert session.speed([1, 2, 3]).peak_memory_bytes is not None
    with pytest.raises(TypeError, match=r"the runtime 'wrong' is toy_runtime:NO_RUNTIME, a object; wanted an instance"):
        runtimes.load("wrong")


def test_another_packages_measure_is_made_behind_ours(toy: Any) -> None:
    assert [measure.__name__ for measure in measures.ordered()][-1] == "Length"
    module = toy()
    reference = Reference(module.ToySession(), None, "", 1 << 20)
    candidate = Candidate(Path("x.toy"), None, module.RUNTIME, 1)
    (found,) = compare.measure(reference, [candidate], Questions(WINDOWS), Settings(1), Silent())
    assert found.failures == []
    assert found.runtime == "Toy (toy 1)"
    assert found.metrics["kl_mean"] < 1e-12
    assert found.metrics["positions"] == 16 + len("1 2 3")


def test_listing_imports_nothing_of_what_is_listed() -> None:
    code = (
        "import sys; from validate import measures, runtimes; before = set(sys.modules)\n"
        "names = [*runtimes.names(), *measures.names()]; new = set(sys.modules) - before\n"
        "sys.exit(' '.join(name for name in new if name.startswith('validate')) or 0)"
    )
    processes.run([sys.executable, "-c", code], check=True)


def test_ours_are_made_in_this_order() -> None:
    ours = [m for m in measures.ordered() if m.__module__.startswith("validate.")]
    windows = [m for m in ours if issubclass(m, WindowMeasure)]
    files = [m for m in ours if issubclass(m, FileMeasure)]
    sessions = [m for m in ours if m not in (*windows, *files)]
    assert [m.__name__ for m in windows] == ["Drift"]
    assert [m.__name__ for m in sessions] == [
        *("Cache", "Speed"),  # before what makes a candidate's process larger
        *("Contract", "Settings", "TemplatesJs", "Embeddings", "Writing"),
        *("Stops", "Tools", "Flips", "KvCache", "Images", "Clicks"),
    ]
    assert [m.__name__ for m in files] == ["Tensors", "Stated"]
    assert len(set(measures.names())) == len(measures.names())


@pytest.mark.parametrize("name", measures.names())
def test_a_measure_says_what_it_is(name: str) -> None:
    measure = measures.load(name)
    assert measure.PART
    assert measure.__doc__
    assert issubclass(measure, SessionMeasure | FileMeasure)
    with pytest.raises(KeyError):
        measures.load(f"{name}?")


# ---- what is needed, and what goes before


class Table(SaysNothing):
    """Reads and spells; cannot be fed, and writes nothing."""

    def identity(self) -> Identity:
        return Identity(50)

    def pieces(self) -> list[str]:
        return [f"w{i}" for i in range(50)]

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = True) -> list[int]:
        return [ord(c) % 50 for c in text]

    def detokenize(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return np.sin(np.outer(np.arange(1, len(tokens) + 1), np.arange(50))).astype(np.float32)


class Writer(Table):
    def generate(self, tokens: Sequence[int], count: int) -> list[int]:
        return [7] * count

    def choices(self, prompts: Sequence[Sequence[int]], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[7] * (len(draft) + 1) for draft in drafts]


class InPlace(Runtime):
    """Gives the session it was made with."""

    NAME = "in place"
    ISOLATED = False

    def __init__(self, session: Session) -> None:
        self._session = session

    def version(self) -> str:
        return "1"

    def open(self, model: Path, **_: Any) -> Session:
        return self._session


def measured(session: Session, **candidate: Any) -> Measurement:
    reference = Reference(Writer(), None, "", 1 << 20)
    one = Candidate(Path("x"), None, InPlace(session), 1, **candidate)
    return compare.measure(reference, [one], Questions(WINDOWS), Settings(1), Silent())[0]


def test_what_a_session_cannot_do_fails_what_needs_it_and_a_cache_that_cannot_be_fed_is_not_measured() -> None:
    found = measured(Table())
    assert found.failures == ["greedy: this runtime has no generate"]
    assert "kl_mean" in found.metrics
    assert "decode_kl" not in found.metrics
    assert measured(Writer()).failures == []


class First(SessionMeasure):
    """Fails, if told to."""

    PART = "first"
    fails = False

    def measure(self, running: RunningCandidate) -> None:
        if self.fails:
            raise RuntimeFailure("it did not work")


class Second(SessionMeasure):
    """Is made of what First was made of."""

    PART = "second"
    AFTER = (First,)
    DESPITE_FAILURES = True

    def measure(self, running: RunningCandidate) -> None:
        running.result.metrics["second"] = 1.0


@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_after_something_is_not_made_where_that_failed(fails: bool) -> None:
    nobody: Any = None
    running = RunningCandidate(Candidate(Path("x"), None, None, 1), Table(), Measurement())
    comparison = Comparison(nobody, Questions(WINDOWS), nobody)
    first = First(comparison)
    first.fails = fails
    for measure in (first, Second(comparison)):
        compare._run_measure(measure, running)
    assert running.result.failures == (["first: it did not work"] if fails else [])
    assert ("second" in running.result.metrics) != fails


def test_the_files_of_what_cannot_be_run_are_looked_at_all_the_same() -> None:
    errors = [TensorError("blk.0", "Q8_0", 9, 0.25)]
    assert measured(Writer(), tensor_errors=lambda: errors).tensors == errors
    reference = Reference(Writer(), None, "", 1 << 20)
    nobody = Candidate(Path("x.punched"), None, None, 1, tensor_errors=lambda: errors)
    (found,) = compare.measure(reference, [nobody], Questions(WINDOWS), Settings(1), Silent())
    assert (found.not_run, found.tensors) == ("no runtime here runs x.punched", errors)


def test_an_output_without_a_runtime_is_a_row_that_says_so(
    tiny_text: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import json

    monkeypatch.setattr(runtimes, "names", list)
    out = tmp_path / "demo" / "validate.partial"
    out.mkdir(parents=True)
    stage.run(stage.Options(tokens=64, window=32), tiny_text, out, Silent())
    rows = json.loads((out / "report.json").read_text())["outputs"]
    name = weights(tiny_text, "F32").path.name
    (row,) = (row for row in rows if row["label"] == name)
    why = f"no runtime here runs {name}; its format wants the runtime 'llama_cpp'"
    assert (row["status"], row["neutral"], row["reason"]) == ("not_run", False, why)
    assert row["tensors"], "what its file says is known"
    assert f"no runtime here runs {name}" in (out / "report.md").read_text()
