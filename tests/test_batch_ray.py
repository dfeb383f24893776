"""Processes on the nodes of a cluster: by Ray where that is installed, by a stand-in for it everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from convert.batch import ray_pool, stored, versions
from convert.batch.api import Batch
from convert.batch.options import Limits
from convert.batch.ray_pool import RayPool
from convert.cli import main
from convert.errors import PlanError
from tests import batch_models
from tests.batch_models import RECIPE, made, ran, texts
from tests.batch_worker import ENVIRONMENT


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    stand_in = str(Path(__file__).parent / "ray_stand_in")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", stand_in)
    monkeypatch.syspath_prepend(stand_in)
    monkeypatch.chdir(tmp_path)
    with batch_models.installed(monkeypatch):
        monkeypatch.setattr(ray_pool, "COMMAND", batch_models.COMMAND)
        yield tmp_path


def on_ray(batch: Batch, jobs: int = 2) -> Batch:
    return replace(batch, engine="ray", limits=Limits(jobs=jobs))


def test_models_on_a_cluster(place: Path) -> None:
    words = {"good": "hello", "bad": "fail", "crash": "crash", "kill": "killed once"}
    results, events = ran(on_ray(made(place, texts(place, **words))))
    assert {name: (r.status, r.failure, r.attempts) for name, r in results.items()} == {
        "good": ("passed", "", 1),
        "bad": ("failed", "broken", 1),
        "crash": ("failed", "crash", 2),
        "kill": ("passed", "", 2),
    }
    assert "SIGABRT: Fatal Python error: Aborted" in results["crash"].reason
    assert events[0].data["at_a_time"] == 2
    assert not list((place / "out").glob("*/*.partial"))


def test_a_node_that_is_lost_takes_no_model_along(place: Path) -> None:
    (place / "lost").touch()
    results, events = ran(on_ray(made(place, texts(place, a="killed once", b="hello")), jobs=1))
    assert {result.status for result in results.values()} == {"passed"}
    (retried,) = (event for event in events if event.kind == "model_retried")
    assert retried.data["failure"] == "network"
    assert f"node {socket.gethostname()} is gone: The node with node id: 12" in retried.data["problems"][0]


def test_leaving_the_loop_ends_what_runs_there(place: Path) -> None:
    for result in on_ray(made(place, texts(place, a="slow", b="hello"))).run():
        assert result.name == "b"
        break
    assert not list((place / "out").glob("*/*.partial"))


def test_other_versions_are_refused_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = on_ray(made(place, texts(place, a="hello")))
    monkeypatch.setattr(ray_pool, "versions", lambda: {**versions.versions(), "torch": "9.9"})
    with pytest.raises(PlanError, match=r"node .*: has torch .*, wanted torch 9\.9; install the same versions"):
        list(batch.run())


def test_a_cluster_whose_head_dies_is_reached_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's process here dies with it; what runs on nodes goes on, and what was killed there is made elsewhere."""
    monkeypatch.setattr(ray_pool, "AGAIN_SECONDS", 0.1)
    batch = on_ray(made(place, texts(place, a="killed once", b="hello", c="world")), jobs=1)

    events: list[Any] = []

    def dies(event: Any) -> None:
        events.append(event)
        if event.kind == "step_started" and event.step == "one" and event.data["model"] == "a":
            (place / "head").touch()

    results = {r.name: r.status for r in batch.run(dies)}
    assert results == {"a": "passed", "b": "passed", "c": "passed"}
    warnings = [event.data["text"] for event in events if event.kind == "warning"]
    assert "the cluster is out of reach: connecting again" in warnings
    assert not (place / "head").exists()


def test_by_a_store_nodes_share_no_disk(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(stored.NODE_FOLDER, str(place / "node"))
    batch = replace(on_ray(made(place, texts(place, a="killed once", b="hello"))), store=str(place / "store"))
    results, _ = ran(batch)
    assert {name: r.status for name, r in results.items()} == {"a": "passed", "b": "passed"}
    assert (place / "out/b/one/upper.txt").read_text() == "HELLO!"


def test_strangers_are_turned_away(place: Path) -> None:
    accept = socket.socket.accept
    seen: list[str] = []

    def stranger(self: socket.socket) -> Any:
        if not seen:
            seen.append("one")
            with socket.create_connection(self.getsockname()) as end:
                end.sendall(json.dumps({"token": "guessed", "name": "x"}).encode() + b"\n")
                return accept(self)
        return accept(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "accept", stranger)
        results, _ = ran(on_ray(made(place, texts(place, a="hello")), jobs=1))
    assert seen
    assert results["a"].status == "passed"


@pytest.mark.parametrize(
    ("engine", "wanted"),
    [
        ("auto", "no cluster: Could not find any running Ray instance.; `ray start --head` starts one"),
        ("rya", "'rya', wanted local, ray, auto or ray://HOST:PORT"),
    ],
)
def test_an_engine_that_is_not_there(place: Path, engine: str, wanted: str) -> None:
    texts(place, a="hello")
    (place / "r.yaml").write_text(RECIPE)
    words = ["batch", "a.gguf", "--recipe", "r.yaml", "--engine", engine]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 2
    assert wanted in result.stderr


def test_without_ray_the_command_that_installs_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match=r"--engine: Ray is not installed; pip install .*\[ray\]"):
        RayPool("ray", Limits(), 1)


# ---- Ray itself


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    pytest.importorskip("ray", reason="pip install -e '.[ray]'")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.chdir(tmp_path)
    with batch_models.installed(monkeypatch):
        monkeypatch.setattr(ray_pool, "COMMAND", batch_models.COMMAND)
        yield tmp_path


def test_models_on_ray_itself(real: Path) -> None:
    """One of Ray's own processes is killed too: ours that it started goes on, or its model is made again."""
    killed: list[int] = []

    def kill(event: Any) -> None:
        if event.kind == "step_started" and event.step == "one" and not killed:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # one that is gone by now
                    ours = str(real).encode() in (path.parent / "environ").read_bytes()
                    if ours and not killed and b"ray::run_worker" in path.read_bytes():
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        killed.append(int(path.parent.name))

    batch = on_ray(made(real, texts(real, good="hello", bad="fail", kill="killed once")))
    results = {result.name: result.status for result in batch.run(kill)}
    assert killed
    assert results == {"good": "passed", "bad": "failed", "kill": "passed"}
