"""Several steps at a time: the same bytes, failures and stops as one at a time, and nothing beyond the machine."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import time
from pathlib import Path

import pytest

from convert import Result, load_recipe, plan, run
from convert.bundle import Bundle, Model
from convert.errors import (
    BusyError,
    ConvertError,
    InputError,
    PlanError,
    Problem,
    RemoteError,
    StageError,
    from_json,
    to_json,
)
from convert.events import Event
from convert.execute import Task
from convert.executors.base import Future
from convert.executors.local import LocalExecutor
from convert.formats.gguf.stage import GGUFOptions
from convert.needs import GB, Machine, Needs
from convert.progress import Silent
from convert.run import executors
from tests.tiny import tiny_llama

RECIPE = """name: tiny
model: {path: Tiny}
stages:
  one: {use: gguf, types: [F32, Q8_0]}
  two: {use: gguf, types: [F16], name: Other}
  three: {use: gguf, types: [BF16], tokenizer_check: warn}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    tiny_llama(tmp_path / "Tiny")
    (tmp_path / "r.yaml").write_text(RECIPE)
    return tmp_path


def made(place: Path, out: str, jobs: int | None) -> tuple[dict[str, str], list[Event], Result]:
    events: list[Event] = []
    result = run(plan(load_recipe(place / "r.yaml"), place / out), events.append, jobs=jobs)
    files = sorted((place / out / "tiny").glob("*/*.gguf"))
    return {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest() for f in files}, events, result


def test_two_at_a_time_make_the_bytes_of_one_at_a_time(place: Path) -> None:
    one, calm, _ = made(place, "a", 1)
    two, events, result = made(place, "b", 2)
    assert len(one) == 4
    assert one == two
    assert result.ran == ("source", "one", "two", "three")
    kinds = [(event.kind, event.step) for event in events if event.kind in ("step_started", "step_finished")]
    first = kinds.index(("step_finished", min(("one", "two"), key=lambda name: kinds.index(("step_finished", name)))))
    assert {("step_started", "one"), ("step_started", "two")} <= set(kinds[:first]), "both ran at once"
    order = [event.step for event in calm if event.kind == "step_finished"]
    assert order == ["source", "one", "two", "three"]
    assert {event.kind for event in events} == {event.kind for event in calm}
    assert (place / "b/tiny/logs/two.log").read_text().count("writing Other-F16.gguf") == 1


def test_a_step_that_fails_lets_the_others_end(place: Path) -> None:
    (place / "r.yaml").write_text(RECIPE.replace("name: Other", "name: Other, imatrix: none.gguf"))
    (place / "none.gguf").write_bytes(b"GGUF")
    with pytest.raises(PlanError):
        made(place, "a", 2)
    (place / "r.yaml").write_text(RECIPE)
    planned = plan(load_recipe(place / "r.yaml"), place / "a")
    (place / "a/tiny").mkdir(parents=True)
    blocked = place / "a/tiny/logs"
    blocked.mkdir()
    tokenizer = (place / "Tiny/tokenizer.json").read_bytes()

    def spoil(event: Event) -> None:
        if event.kind == "step_started" and event.step == "two":  # the file changes under a step that runs
            (place / "Tiny/tokenizer.json").write_bytes(b"{}")

    with pytest.raises(ConvertError):
        run(planned, spoil, jobs=2)
    (place / "Tiny/tokenizer.json").write_bytes(tokenizer)
    assert not list((place / "a/tiny").glob("*.partial"))
    files, _, _ = made(place, "a", 2)
    assert len(files) == 4


def test_ctrl_c_ends_what_runs_and_leaves_nothing_half_made(place: Path) -> None:
    planned = plan(load_recipe(place / "r.yaml"), place / "a")
    started: list[str] = []

    def stop(event: Event) -> None:
        if event.kind == "step_started" and event.step != "source":
            started.append(event.step)
        if len(started) == 2 and event.kind == "task":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(planned, stop, jobs=2)
    assert not list((place / "a/tiny").glob("*.partial"))
    assert made(place, "a", 2)[0] == made(place, "b", 1)[0]


def test_nothing_of_a_run_that_was_stopped_holds_the_folder(place: Path) -> None:
    """The steps hold the lock too; the next run takes it as soon as they are gone."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(read)
        run(plan(load_recipe(place / "r.yaml"), place / "a"), lambda e: os.write(write, b".") and None, jobs=2)
        os._exit(0)
    os.close(write)
    for _ in range(20):
        os.read(read, 1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(read)
    since = time.monotonic()
    files, _, _ = made(place, "a", 1)
    assert len(files) == 4
    assert time.monotonic() - since < 60


def test_an_executor_may_be_named_and_is_found() -> None:
    assert set(executors()) >= {"local"}
    assert not {"base", "worker"} & set(executors())


@pytest.mark.parametrize(
    ("cores", "memory", "running", "wanted"),
    [
        ((1, 1), (1, 1), 2, True),
        ((1, 0), (1, 1), 2, False),  # the second wants all cores
        ((1, 1), (3, 3), 2, False),  # more memory than there is
        ((0, 0), (9, 9), 1, True),  # one alone always may
        ((1, 1, 1), (1, 1, 1), 3, False),  # two cores for three
    ],
)
def test_what_fits_a_machine(cores: tuple[int, ...], memory: tuple[int, ...], running: int, wanted: bool) -> None:
    machine = Machine(cores=2, memory_bytes=4 * GB)
    needs = [Needs(memory_bytes=m * GB, cores=c) for c, m in zip(cores, memory, strict=True)][:running]
    assert machine.fits(needs[-1], needs[:-1]) is wanted


def test_jobs_are_a_limit_of_the_local_executor(tmp_path: Path) -> None:
    executor = LocalExecutor(1)
    task = Task("x", "gguf", GGUFOptions(types=["F32"]), {}, "", "", Needs())
    future: Future = executor.submit(task, tmp_path, Silent(), alone=False, wake=lambda: None)
    assert future.done(), "one at a time runs in this process, when its result is asked for"
    assert executor.has_room(task)


PROBLEM = Problem("here", "got", "wanted", "remedy")


@pytest.mark.parametrize(
    "error",
    [
        InputError("here", "got", "wanted", "remedy"),
        StageError("here", "got"),
        PlanError(PROBLEM, PROBLEM),
        BusyError(PROBLEM),
        ConvertError("words alone"),
        OSError(28, "No space left on device", "/x/y"),
        MemoryError(),
        ValueError("odd"),
    ],
)
def test_an_error_crosses_to_the_process_that_asked(error: Exception) -> None:
    again = from_json(to_json(error))
    assert isinstance(again, RemoteError if isinstance(error, ValueError) else type(error))
    assert str(again) == ("ValueError: odd" if isinstance(error, ValueError) else str(error))
    if isinstance(error, OSError) and isinstance(again, OSError):
        assert (again.errno, again.filename) == (error.errno, error.filename)
    assert any("Error" in note for note in again.__notes__), "its traceback goes into the log"


def test_a_bundle_and_a_task_can_be_pickled() -> None:
    import pickle

    task = Task("x", "gguf", GGUFOptions(types=["F32"]), {"source": Bundle(Model("m"))}, "k", "r", Needs())
    assert pickle.loads(pickle.dumps(task)) == task


def test_the_steps_of_a_recipe_say_what_they_need(place: Path) -> None:
    steps = plan(load_recipe(place / "r.yaml"), place / "a").steps
    for step in itertools.islice(steps, 1, None):
        assert 0 < step.needs.memory_bytes < GB
        assert step.to_json()["needs"]["memory_bytes"] == step.needs.memory_bytes
        assert step.work > 0


def test_a_step_that_cannot_fit_is_refused_before_anything_starts(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("validate.memory.free_bytes", lambda: 100_000_000)
    monkeypatch.setattr("validate.memory.total_bytes", lambda: 200_000_000)
    planned = plan(load_recipe(place / "r.yaml"), place / "a")
    first = str(planned.problems[0])
    assert "takes about 0.3 GB of memory, wanted at most the 0.1 GB that are free" in first
    assert "this machine has 0.2 GB: run it on one with more" in first
    with pytest.raises(PlanError):
        run(planned)
    assert not (place / "a").exists()
