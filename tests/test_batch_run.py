"""A batch while it runs: what fails, what is tried again, what is stopped, and what the others notice of it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert import load_recipe, plan, run
from convert.batch import driver, turns
from convert.batch.api import prepare
from convert.batch.journal import Journal
from convert.batch.options import Limits
from convert.batch.request import request_of
from convert.cli import main
from convert.errors import BusyError, PlanError
from convert.needs import Machine
from convert.run import Result
from tests import batch_models, processes
from tests.batch_models import RECIPE, made, ran, summary, texts
from tests.batch_worker import ENVIRONMENT

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with batch_models.installed(monkeypatch):
        yield tmp_path


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All that a run leaves, without what says when, and what it remembers of times."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if not {"logs", ".convert", "validate"} & set(path.relative_to(folder).parts)
    }


def alone(place: Path, name: str) -> Result:
    return run(plan(load_recipe(place / f"out/.convert/recipes/{name}.yaml"), place / "alone"))


def test_each_model_is_made_as_by_convert_run(place: Path) -> None:
    results, events = ran(made(place, texts(place, a="hello", b="world")))
    assert {name: result.status for name, result in results.items()} == {"a": "passed", "b": "passed"}
    for name in results:
        alone(place, name)
        ours = bytes_of(place / "out" / name)
        assert "one/manifest.json" in ours
        assert ours == {
            file: raw.replace(b"/alone/", b"/out/") for file, raw in bytes_of(place / "alone" / name).items()
        }
    kinds = [event.kind for event in events]
    assert (kinds[0], kinds[-1]) == ("batch", "batch_finished")
    assert {"model_started", "step_started", "step_finished", "model_finished"} <= set(kinds)
    assert all("model" in event.data for event in events if event.kind not in ("batch", "batch_finished"))
    again, _ = ran(made(place, texts(place, a="hello", b="world")))
    assert {result.ran for result in again.values()} == {()}
    assert load_plan_has_nothing_to_do(place, "a")


def load_plan_has_nothing_to_do(place: Path, name: str) -> bool:
    steps = plan(load_recipe(place / f"out/.convert/recipes/{name}.yaml"), place / "out").steps
    return all(step.up_to_date for step in steps)


def test_one_models_failure_is_its_own(place: Path) -> None:
    words = {"good": "hello", "bad": "fail", "crash": "crash", "kill": "killed", "big": "big", "long": "x" * 120}
    batch = made(place, [*texts(place, **words), place / "good2.gguf"], skip_bad=True)
    results, events = ran(batch)
    got = {name: (result.status, result.failure, result.attempts) for name, result in results.items()}
    assert got == {
        "good": ("passed", "", 1),
        "bad": ("failed", "broken", 1),
        "crash": ("failed", "crash", 2),
        "kill": ("failed", "killed", 2),
        "big": ("failed", "broken", 1),
        "long": ("missed", "", 1),
    }
    assert "RuntimeError: the text says so" in results["bad"].reason
    assert results["crash"].reason.startswith("stage 'one': the process that converts it was stopped by SIGABRT")
    assert "Fatal Python error: Aborted" in results["crash"].reason
    assert "SIGKILL; the system was most likely short of memory" in results["kill"].reason
    assert "takes about 1000000 GB of memory, wanted at most" in results["big"].reason
    assert results["long"].outputs[0].verdict == "failed"
    assert not list((place / "out").glob("*/*.partial")), "nothing half-made stays"
    retried = {event.data["model"] for event in events if event.kind == "model_retried"}
    assert retried == {"crash", "kill"}
    assert events[-1].data["exit_code"] == 1
    rows = {row["name"]: row for row in summary(place)["models"]}
    assert rows[""]["status"] == "left out"
    assert rows["crash"]["step"] == "one"


@pytest.mark.parametrize(
    ("text", "attempts", "kind"), [("busy 2", 3, "network"), ("memory", 2, "memory"), ("killed once", 2, "killed")]
)
def test_what_may_pass_is_tried_again(place: Path, text: str, attempts: int, kind: str) -> None:
    results, events = ran(made(place, texts(place, a=text)))
    assert (results["a"].status, results["a"].attempts) == ("passed", attempts)
    assert {event.data["failure"] for event in events if event.kind == "model_retried"} == {kind}


def test_it_is_not_tried_for_ever(place: Path) -> None:
    results, _ = ran(made(place, texts(place, a="busy 9")))
    assert (results["a"].status, results["a"].attempts) == ("failed", 4)
    assert "Connection reset by peer" in results["a"].reason


def test_only_what_failed_is_run_again(place: Path) -> None:
    files = texts(place, a="hello", b="fail", c="world")
    ran(made(place, files))
    (place / "b.gguf").write_text("good now")
    results, _ = ran(made(place, files, only="failed"))
    assert {name: result.status for name, result in results.items()} == {"b": "passed"}
    assert [(row["name"], row["status"]) for row in summary(place)["models"]] == [
        ("b", "passed"),
        ("a", "passed"),
        ("c", "passed"),
    ]
    assert [(c["name"], c["way"]) for c in summary(place)["changes"]] == [("b", "better")]
    with pytest.raises(PlanError, match="no model of this batch is failed"):
        made(place, files, only="failed")


def test_no_more_models_than_asked_for(place: Path) -> None:
    files = texts(place, a="hello", b="world", c="again")
    first, _ = ran(replace(made(place, files), max_models=2))
    assert sorted(first) == ["a", "b"]
    assert [row["status"] for row in summary(place)["models"]] == ["passed", "passed", "pending"]
    second, _ = ran(replace(made(place, files), max_models=2))
    assert {name: bool(result.ran) for name, result in second.items()} == {"a": False, "b": False, "c": True}


def test_no_other_begins_after_so_many_failures(place: Path) -> None:
    files = texts(place, a="fail", b="fail", c="hello", d="hello", e="hello")
    results, _ = ran(replace(made(place, files), stop_after=2))
    assert sorted(results) == ["a", "b"]
    assert [row["status"] for row in summary(place)["models"]].count("pending") == 3


def test_a_full_disk_pauses_the_batch_until_there_is_room(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = [0, 0, 0]

    def usage(path: object) -> Usage:
        return Usage(10**12, 0, free.pop() if free else 10**11)

    monkeypatch.setattr(turns.shutil, "disk_usage", usage)
    results, events = ran(made(place, texts(place, a="hello")))
    assert results["a"].status == "passed"
    told = [event for event in events if event.kind in ("paused", "resumed")]
    assert [event.kind for event in told] == ["paused", "resumed"]
    assert "the disk has 0.00 GB free, and the next model takes 0.00 GB" in told[0].data["text"]
    full, events = ran(made(place, texts(place, b="full")))
    assert full["b"].status == "passed"
    assert [event.data["failure"] for event in events if event.kind == "model_retried"] == ["disk"]


def test_steps_are_never_beyond_the_memory_together(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from convert.batch.resources import Budget

    most: list[int] = []
    fits = Budget.fits

    def watched(self: Budget, asked: Any, running: Any, idle: int = 0) -> bool:
        most.append(sum(other.needs.memory_bytes for other in running))
        return fits(self, asked, running, 0 * idle)

    monkeypatch.setattr(Budget, "fits", watched)
    monkeypatch.setattr(driver, "this_machine", lambda: Machine(4, 900_000_000))
    files = texts(place, **{f"m{i}": f"text {i}" for i in range(6)})
    results, _ = ran(made(place, files, jobs=4))
    assert {result.status for result in results.values()} == {"passed"}
    assert 0 < max(most) <= 900_000_000


def test_a_disk_that_takes_no_result_loses_none(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, full = Journal(place / "out"), [True]
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        if full.pop() if full else False:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    one, two = (batch_models.ModelResult(name, "m", "r", "w", "passed") for name in "ab")
    journal.keep(one)
    journal.keep(two)
    assert set(journal.results()) == {"a", "b"}


def test_an_output_folder_that_cannot_be(place: Path) -> None:
    texts(place, a="hello")
    (place / "r.yaml").write_text(RECIPE)
    result = convert("batch", "a.gguf", "--recipe", "r.yaml", "--out", "a.gguf")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "a.gguf: cannot be made: Not a directory; name another --out" in result.stderr


def test_a_batch_that_is_killed_leaves_nothing_that_writes(place: Path) -> None:
    texts(place, a="slow")
    (place / "r.yaml").write_text(RECIPE)
    with started(place, "batch", "a.gguf", "--recipe", "r.yaml", "-v") as process:
        for line in process.stdout:
            if "a: one begins" in line:
                break
        process.kill()
        process.wait(30)
        assert "the batch was killed; start it again, it goes on" in convert("status", "out").stdout
    (place / "a.gguf").write_text("hello")
    results, _ = ran(made(place, [place / "a.gguf"]))
    assert results["a"].status == "passed", "its folder is free, and what was half-made is gone"
    assert not list((place / "out").glob("*/*.partial"))


def test_two_batches_do_not_write_into_one_folder(place: Path) -> None:
    batch = made(place, texts(place, a="hello"))
    results = batch.run()
    next(results)
    with pytest.raises(BusyError, match="is held by"):
        next(batch.run())
    results.close()  # type: ignore[attr-defined]


def test_leaving_the_loop_ends_what_runs(place: Path) -> None:
    since = time.monotonic()
    for result in made(place, texts(place, a="slow", b="hello"), jobs=2).run():
        assert result.name == "b"
        break
    assert time.monotonic() - since < 300
    assert not list((place / "out").glob("*/*.partial"))
    assert {row["name"]: row["status"] for row in summary(place)["models"]} == {"a": "pending", "b": "passed"}


def test_what_a_callback_raises_reaches_the_caller(place: Path) -> None:
    def refuse(event: Any) -> None:
        if event.kind == "step_started":
            raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(made(place, texts(place, a="hello")).run(refuse))


def test_outputs_go_where_only_reports_are_kept(place: Path) -> None:
    files = texts(place, a="hello", b="fail")
    ran(made(place, files, keep="report"))
    assert (place / "out/a/report.json").is_file()
    assert not (place / "out/a/one").exists()
    assert (place / "out/a/validate").is_dir()
    again = made(place, files, keep="report")
    assert [job.name for job in again.jobs] == ["b"], "what was made and let go of is done"
    (place / "r.yaml").write_text(RECIPE.replace("100", "99"))
    changed = made(place, files, RECIPE.replace("100", "99"), keep="report")
    assert [job.name for job in changed.jobs] == ["a", "b"]


def test_models_that_pass_are_published_one_at_a_time(place: Path) -> None:
    recipe = RECIPE + f"release: {{to: {place}/pub}}\n"
    files = texts(place, a="hello", b="world", long="x" * 120, bad="fail")
    results, _ = ran(made(place, files, recipe, jobs=2))
    assert {name: result.released for name, result in results.items()} == {
        "a": ("pub/a",),
        "b": ("pub/b",),
        "long": (),
        "bad": (),
    }
    assert sorted(path.name for path in (place / "pub").iterdir()) == ["a", "b"]


# ---- the command


@contextmanager
def started(place: Path, *words: str) -> Iterator[Any]:
    """The command in a process of its own, with fake stages."""
    code = (
        "import pytest, sys\nfrom convert.cli import main\nfrom tests import batch_models\n"
        "with pytest.MonkeyPatch.context() as patch, batch_models.installed(patch):\n    main(sys.argv[1:])\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", code, *words]
    with processes.started(command, cwd=place, env=environment, text=True, **pipes) as process:
        yield process


def convert(*words: str) -> Any:
    return CliRunner().invoke(main, words, catch_exceptions=False)


@pytest.mark.parametrize(
    ("words", "code"), [({"a": "hello"}, 0), ({"a": "fail", "b": "x" * 120}, 1), ({"a": "x" * 120, "b": "hello"}, 3)]
)
def test_exit_codes(place: Path, words: dict[str, str], code: int) -> None:
    texts(place, **words)
    (place / "r.yaml").write_text(RECIPE)
    result = convert("batch", "*.gguf", "--recipe", "r.yaml")
    assert result.exit_code == code, result.output
    assert result.stdout.rstrip().endswith("summary: out/summary.html")
    assert "Traceback" not in result.output
    assert convert("batch", "*.gguf", "--recipe", "r.yaml", "--quiet").stdout == ""


def test_json_lines(place: Path) -> None:
    texts(place, a="hello", b="fail")
    (place / "r.yaml").write_text(RECIPE)
    lines = [
        json.loads(line) for line in convert("batch", "*.gguf", "--recipe", "r.yaml", "--json").stdout.splitlines()
    ]
    assert {line["event"] for line in lines} >= {"batch", "model_started", "step_finished", "model_finished"}
    assert lines[-1]["event"] == "finished"
    assert lines[-1]["exit_code"] == 1
    assert {model["name"]: model["status"] for model in lines[-1]["models"]} == {"a": "passed", "b": "failed"}


def test_the_status_of_a_batch_that_runs_and_of_one_that_ended(place: Path) -> None:
    assert convert("status", "out").exit_code == 2
    batch = made(place, texts(place, a="slow", b="hello", c="fail"), jobs=2)
    results = batch.run()
    assert {next(results).name, next(results).name} == {"b", "c"}
    until = time.monotonic() + 120
    wanted = ("a: one, waiting", "out: 2 of 3 models done, the batch runs")
    while any(word not in (said := convert("status", "out").stdout) for word in wanted) and time.monotonic() < until:
        time.sleep(0.05)
    assert all(word in said for word in wanted), said
    assert "failed: c: stage 'one': RuntimeError: the text says so" in said
    results.close()  # type: ignore[attr-defined]
    found = json.loads(convert("status", "out", "--json").stdout)
    assert (found["alive"], found["ended"], found["counts"]) == (False, True, {"passed": 1, "failed": 1})


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_clean(place: Path, which: signal.Signals) -> None:
    texts(place, a="slow", b="hello")
    (place / "r.yaml").write_text(RECIPE)
    with started(place, "batch", "a.gguf", "b.gguf", "--recipe", "r.yaml", "-v") as process:
        watch = threading.Timer(300, process.kill)
        watch.start()
        seen: list[str] = []
        for line in process.stdout:
            seen.append(line)
            if any("a: one begins" in s for s in seen) and any("[1/2] b: passed" in s for s in seen):
                break
        process.send_signal(which)
        assert process.wait(120) == 130
        assert process.stderr.read() == "stopped; what is done is kept, the next batch continues after it\n"
        watch.cancel()
    assert not list((place / "out").glob("*/*.partial"))
    assert {row["name"]: row["status"] for row in summary(place)["models"]} == {"a": "pending", "b": "passed"}


def test_a_dry_run_says_what_all_would_take_and_builds_nothing(place: Path) -> None:
    texts(place, a="hello", b="big")
    (place / "r.yaml").write_text(RECIPE)
    words = ("batch", "*.gguf", "--recipe", "r.yaml", "--dry-run")
    result = convert(*words)
    assert result.exit_code == 2
    assert "1 run, 1 cannot run" in result.stdout
    assert "error: b: " in result.stderr
    assert not (place / "out/a").exists()
    found = json.loads(convert(*words, "--json").stdout)
    assert [(model["name"], model["state"], model["steps"]) for model in found["models"]] == [
        ("a", "run", 3),
        ("b", "cannot run", 3),
    ]
    assert found["total"]["write_bytes"] > 5


def test_what_a_terminal_shows() -> None:
    from rich.console import Console

    from convert.cli.batch_view import LiveView
    from convert.events import Event

    view = LiveView()
    done = {"status": "passed", "seconds": 2.0, "ran": ["one"], "model": "a"}
    for kind, step, data in [
        ("batch", "", {"models": 3, "at_a_time": 2}),
        ("model_started", "", {"model": "a"}),
        ("model_started", "", {"model": "b\x1b[2J"}),
        ("step_started", "q4", {"model": "b\x1b[2J"}),
        ("progress", "q4", {"model": "b\x1b[2J", "what": "writing", "done": 30, "total": 60}),
        ("model_finished", "", done),
        ("paused", "", {"text": "paused: the disk has 0 GB free"}),
    ]:
        view.take(Event(kind, step, data))
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(view.table())
    text = console.export_text()
    assert "1 of 3 models" in text
    assert "1 passed" in text
    assert "left" in text
    assert "q4, writing 50%" in text
    assert "paused: the disk" in text
    assert "\x1b" not in text


def test_a_step_that_another_recipe_has_made_is_not_made_again(place: Path) -> None:
    (place / "one.yaml").write_text("stages:\n  one: {use: upper}\nvalidate: {limit: 100}\n")
    (place / "two.yaml").write_text("stages:\n  first: {use: upper}\n  more: {use: upper, suffix: '?'}\n")
    (place / "a.gguf").write_text("hello")
    (place / "batch.yaml").write_text("models: [a.gguf]\nrecipes: [one.yaml, two.yaml]\n")
    batch = prepare(request_of(["batch.yaml"]), "out")
    results, _ = ran(replace(batch, limits=Limits(jobs=2)))
    assert {name: result.ran for name, result in results.items()} == {
        "a-one": ("source", "one", "validate"),
        "a-two": ("more",),
    }
    assert (place / "a.tries").read_text() == "2", "of three steps of that stage two were run"
    alone(place, "a-two")
    assert bytes_of(place / "out/a-two") == bytes_of(place / "alone/a-two"), "manifests and all"
    (place / "out/a-one/one/upper.txt").write_text("spoilt")
    (place / "three.yaml").write_text("stages:\n  x: {use: upper}\n")
    (place / "batch.yaml").write_text("models: [a.gguf]\nrecipes: [three.yaml]\nname: a-three\n")
    results, _ = ran(replace(prepare(request_of(["batch.yaml"]), "out"), limits=Limits(jobs=1)))
    assert (place / "out/a-three/x/upper.txt").read_text() == "HELLO!"
