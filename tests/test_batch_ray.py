"""Processes on the nodes of a cluster: by Ray where that is installed, by a stand-in for it everywhere."""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from convert.batch import ray_pool
from convert.batch.api import Batch
from convert.batch.options import Limits
from convert.batch.ray_pool import RayPool
from convert.cli import main
from convert.errors import PlanError
from tests import batch_models
from tests.batch_models import RECIPE, made, ran, texts
from tests.batch_worker import ENVIRONMENT


@pytest.fixture(autouse=True)
def _own_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray puts a print of its own in the place of Python's, which other tests would meet."""
    monkeypatch.setattr(builtins, "print", print)


class Lost(Exception):
    """A node went away."""


class StandIn(ModuleType):
    """As much of Ray as is asked of it: functions run in threads; where a file `lost` is, one takes its node along."""

    exceptions = SimpleNamespace(RayError=Lost)
    util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1")

    def __init__(self) -> None:
        super().__init__("ray")
        self.started: list[dict[str, Any]] = []

    def init(self, **words: Any) -> None:
        if words.get("address") == "auto":
            raise ConnectionError("Could not find any running Ray instance.")
        self.started.append(words)

    def shutdown(self) -> None:
        self.started.clear()

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: Any) -> Any:
        assert options == {"num_cpus": 1, "max_retries": 0}

        def of(function: Any) -> Any:
            def start(*arguments: Any) -> Future[Any]:
                future: Future[Any] = Future()
                lost = Path(os.environ[ENVIRONMENT]) / "lost"  # read now: the thread may outlive its test

                def run() -> None:
                    try:
                        found = function(*arguments)
                    except BaseException as error:
                        future.set_exception(error)
                        return
                    if found[0] and lost.exists():
                        lost.unlink()
                        future.set_exception(Lost("The node with node id: 12 has been marked dead"))
                    else:
                        future.set_result(found)

                threading.Thread(target=run, daemon=True).start()
                return future

            return SimpleNamespace(remote=start)

        return of

    @staticmethod
    def get(future: Future[Any], timeout: float) -> Any:
        return future.result(timeout)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setitem(sys.modules, "ray", StandIn())
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
    real = ray_pool._versions()
    calls = iter([real, {**real, "torch": "9.9"}])
    monkeypatch.setattr(ray_pool, "_versions", lambda: next(calls, real))
    with pytest.raises(PlanError, match=r"node .*: has torch .*, wanted torch 9\.9; install the same versions"):
        list(batch.run())


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
    monkeypatch.setitem(sys.modules, "ray", None)
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
