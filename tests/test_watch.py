"""convert watch on a hub of our own: what is new, once each, whatever is killed, busy or cut short."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from convert.batch import watch
from convert.batch.api import Batch
from convert.batch.results import ModelResult
from convert.batch.watch import Watcher
from convert.batch.watch_list import Watched, watched
from convert.batch.watch_state import State
from convert.cli import main
from convert.source import remote
from tests import processes
from tests.fixtures_server import COMMIT, NAME, Hub, serving

RECIPE = "model: {stream: true}\nstages:\n  gguf: {use: gguf, types: [F16], tokenizer_check: warn}\n"


def listed(name: str, number: int, **words: Any) -> dict[str, Any]:
    """A model as the hub lists it; the number is its revision and its day."""
    said = {"id": name, "sha": f"{number:040x}", "lastModified": f"2126-11-{number:02d}T00:00:00.000Z"}
    return {**said, "tags": ["safetensors"], "downloads": 10, "likes": 1, **words}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "served").mkdir()
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    with serving(tmp_path / "served") as found:
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        yield found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that batches were of; nothing is converted. What a model is called says what comes of it."""
    found: list[str] = []

    def run(self: Batch, on_event: Any) -> Iterator[ModelResult]:
        for job in self.jobs:
            found.append(f"{job.name} {job.model}")
            kind = next((k for k in ("network", "broken") if k in job.model), "")
            status = "failed" if kind else "passed"
            yield ModelResult(job.name, job.model, job.recipe, job.where, status, failure=kind, ran=("gguf",))

    monkeypatch.setattr(Batch, "run", run)
    return found


def once(*words: str, backlog: bool = False, filters: tuple[str, ...] = ()) -> list[str]:
    """Look once, and convert; what could not be looked at."""
    watches = watched(words, filters)
    assert not watches.problems
    watcher = Watcher(Path("out").absolute(), watches.watches, [Path("r.yaml")], backlog)
    problems = watcher.look(lambda event: None)
    if (batch := watcher.batch()) is not None:
        list(watcher.run(batch))
    return list(map(str, problems))


def test_only_what_is_new(hub: Hub, made: list[str]) -> None:
    hub.listing = [listed("Org/b", 2), listed("Org/a", 1), listed("Else/x", 9)]
    once("Org")
    assert made == [], "what is there at the first look is left alone"
    hub.listing = [listed("Org/a", 4), listed("Org/c", 3), *hub.listing]
    once("Org")
    assert made == [f"c Org/c@{3:040x}", f"a Org/a@{4:040x}"], "a new model, and a new revision of one"
    once("Org")
    assert len(made) == 2, "and none of them twice"


def test_what_was_there_before_too(hub: Hub, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    hub.page = 2
    hub.listing = [listed(f"Org/m{i}", i) for i in range(9, 1, -1)]
    once("Org", backlog=True)
    assert [line.split()[0] for line in made] == [f"m{i}" for i in range(2, 10)]
    asked = len(hub.asked)
    once("Org", backlog=True)
    assert len(hub.asked) - asked == 2, "no page is read on which all is older than the last look"
    assert len(made) == 8
    monkeypatch.setattr(watch, "WHOLE", timedelta(seconds=-5))
    hub.listing.append(listed("Org/was-private", 1))
    once("Org")
    assert made[8:] == [f"was-private Org/was-private@{1:040x}"], "but once a day all are"


def test_filters(hub: Hub, made: list[str], tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text(
        "model,name,tags,min_downloads,gated,without\nOrg,Phi-*,text-generation,100,false,*-GGUF\nOther,,,,,\n"
    )
    good: dict[str, Any] = {"tags": ["text-generation", "mit"], "downloads": 200}
    hub.listing = [
        listed("Org/Phi-1", 9, **good),
        listed("Org/Phi-2-GGUF", 8, **good),
        listed("Org/Phi-3", 7, **{**good, "downloads": 99}),
        listed("Org/Phi-4", 6, **{**good, "tags": ["mit"]}),
        listed("Org/Phi-5", 5, **good, gated="manual"),
        listed("Org/Qwen", 4, **good),
        listed("Other/Phi-1", 3),
        listed("Org/no-commit", 2, **good, sha=None),
    ]
    once("w.csv", backlog=True)
    assert made == [f"Phi-1 Org/Phi-1@{9:040x}", f"Other--Phi-1 Other/Phi-1@{3:040x}"]
    hub.listing[2]["downloads"] = 100
    once("w.csv")
    assert made[2:] == [f"Phi-3 Org/Phi-3@{7:040x}"], "wanted from the day on which enough have downloaded it"


def test_one_model_and_its_revisions(hub: Hub, made: list[str]) -> None:
    once(NAME, backlog=True)
    once(NAME)
    assert made == [f"Tiny {NAME}@{COMMIT}"]


def test_a_newer_revision_takes_the_place_of_one_that_waits(hub: Hub) -> None:
    state = Watcher(Path("out").absolute(), watched(["Org"]).watches, [Path("r.yaml")], True)
    hub.listing = [listed("Org/a", 1)]
    state.look(lambda event: None)
    hub.listing = [listed("Org/a", 2)]
    state.look(lambda event: None)
    assert [one.revision for one in State(Path("out")).queue()] == [f"{2:040x}"]


def test_what_passes_by_itself_is_tried_with_the_next_looks(hub: Hub, made: list[str]) -> None:
    hub.listing = [listed("Org/network", 2), listed("Org/broken", 1)]
    for _ in range(5):
        once("Org", backlog=True)
    assert [line.split()[0] for line in made] == ["broken", "network", "network", "network"]


def test_a_hub_that_is_busy_is_asked_again(hub: Hub, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(remote, "sleep", waits.append)
    hub.listing = [listed("Org/a", 1)]
    left = [2]

    def busy(path: str, span: str) -> str:
        left[0] -= 1
        return "429" if left[0] >= 0 else ""

    hub.fault = busy
    assert once("Org", backlog=True) == []
    assert waits == [7.0, 7.0], "as long as it asks"
    assert len(made) == 1


def test_a_hub_that_is_gone_costs_a_look(hub: Hub, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "sleep", lambda seconds: None)
    once("Org")
    hub.page, hub.listing = 1, [listed("Org/b", 2), listed("Org/a", 1)]
    hub.fault = lambda path, span: "503" if span == "1" else ""
    (problem,) = once("Org")
    assert "was not given in 8 tries" in problem
    assert made == []
    hub.fault = lambda path, span: ""
    once("Org")
    assert len(made) == 2, "a look that was cut short counts for nothing"


def test_a_page_of_another_server_gets_no_token(hub: Hub, made: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("127.0.0.1", "localhost"))
    hub.page, hub.listing = 1, [listed("Org/b", 2), listed("Org/a", 1)]
    (problem,) = once("Org", backlog=True)
    assert "as the next page of models, wanted one of its own" in problem


def test_a_line_that_was_cut_short_counts_for_nothing(hub: Hub, made: list[str]) -> None:
    hub.listing = [listed("Org/b", 2), listed("Org/a", 1)]
    state = State(Path("out").absolute())
    once("Org")
    lines = state.path.read_text().splitlines(keepends=True)
    state.path.write_text("".join(lines[:1]) + lines[1][:30])
    once("Org", backlog=True)
    assert [line.split()[0] for line in made] == ["b"]
    assert all(json.loads(line) for line in state.path.read_text().splitlines()[2:])


def test_killed_in_the_middle(hub: Hub, tmp_path: Path) -> None:
    """By kill -9 at a model: every revision is ended once, and none is begun after it."""
    hub.listing = [listed(f"Org/m{i}", i) for i in range(4, 0, -1)]
    ended, begun = tmp_path / "ended.txt", tmp_path / "begun.txt"
    for kill_after in (2, 99):
        command = [sys.executable, "-m", "tests.watch_process", str(tmp_path), hub.url, str(kill_after)]
        code = processes.run(command, check=False, cwd=Path(__file__).parents[1]).returncode
        assert code == (0 if kill_after == 99 else -signal.SIGKILL)
    wanted = [f"Org/m{i}@{i:040x}" for i in range(1, 5)]
    assert ended.read_text().splitlines() == wanted
    assert begun.read_text().splitlines() == [*wanted[:3], *wanted[2:]]


def problems(found: Watched) -> list[str]:
    return [str(problem) for problem in found.problems]


def test_lines_that_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.txt").write_text(
        "Org naem=x\nOrg min_likes=many\n../up\nOrg since=today\nOrg revision=v1\n"
        "Org/a revision=v1\nOrg/a revision=v1\nOrg gated=maybe 'open\nOrg odd\n"
    )
    Path("empty.txt").write_text("# none\n")
    found = watched(["w.txt", "empty.txt"], ["since"])
    assert problems(found) == [
        "--filter: 'since' says no value, wanted name=Phi-*",
        "w.txt:1: there is no filter 'naem'; did you mean 'name'?",
        "w.txt:2: min_likes is 'many', wanted a number",
        "w.txt:3: '../up' is no name of the hub, wanted org, or org/name",
        "w.txt:4: since is 'today', wanted a date: 2026-11-29",
        "w.txt:5: `revision` is of one model, wanted org/name; leave it out",
        "w.txt:8: cannot be read: No closing quotation, wanted MODEL [variable=value …]",
        "w.txt:9: 'odd' follows the model, wanted variable=value",
        "empty.txt: names nothing to watch, wanted a line an owner or a model",
        "w.txt:7: watches Org/a revision=v1 again; w.txt:6 does",
    ]


def test_the_command(hub: Hub, made: list[str]) -> None:
    hub.listing = [listed("Org/a", 1), listed("Org/broken", 2)]
    runner = CliRunner()

    def said(*words: str) -> Any:
        return runner.invoke(main, ["watch", *words, "--recipe", "r.yaml", "--once"], catch_exceptions=False)

    first = said("Org", "--backlog", "--dry-run")
    assert (first.exit_code, made) == (0, [])
    assert f"Org/a@{1:040x}"[:18] in first.stdout
    assert "2 to convert" in first.stdout
    second = said("Org")
    assert second.exit_code == 1
    assert len(made) == 2
    assert said("Org").exit_code == 0, "what failed before is no failure of this look"
    hub.gated = True
    gone = said("Org")
    assert gone.exit_code == 1
    assert "warning: not looked at: " in gone.stderr
    assert runner.invoke(main, ["watch", "--recipe", "r.yaml"]).exit_code == 2
    assert runner.invoke(main, ["watch", "Org"]).exit_code == 2
    assert "write 90s, 15m, 2h or 1d" in said("Org", "--every", "soon").stderr
