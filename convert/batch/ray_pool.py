"""Processes on the nodes of a Ray cluster. Ray starts them and says how they ended; nothing else goes through it.

    ray            starts Ray on this machine
    auto           the cluster that this machine is a node of
    ray://H:P      a cluster elsewhere, by its client server

Each process connects to a socket of ours and is from then on as one of this machine: what it asks for, what it says,
its death. Models, recipes and outputs lie on a file system that all nodes see under the same paths; Ray moves none of
it, and may forget everything at any moment: what is published is done, what was not is made again.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib
import json
import os
import platform
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from convert.batch.failures import Failure, of_a_death
from convert.batch.options import Limits
from convert.batch.pool import COMMAND, GONE_SECONDS, STOP_SECONDS, Pool, Worker, environment, last_words
from convert.batch.resources import Budget
from convert.distribution import RELEASE, install_command
from convert.errors import PlanError, Problem
from convert.json_types import JsonDict
from convert.keys import version
from convert.needs import Machine, this_machine

if TYPE_CHECKING:
    from ray import ObjectRef

CONNECT_SECONDS = 120.0  # for Ray to find a place, and a Python to start there
HELLO_BYTES, HELLO_SECONDS = 1 << 16, 10.0
RAY = "ray"
SAME = ("numpy", "torch", "transformers", "numba", "onnx", "onnxruntime", "xllamacpp")  # what bytes may depend on
PASSED_ON = (
    "OMP_NUM_THREADS",
    "TOKENIZERS_PARALLELISM",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
)  # no tokens: nodes have theirs


class RayWorker(Worker):
    """One on a node of the cluster."""

    def __init__(self, end: socket.socket, node: str, asked: ObjectRef) -> None:
        super().__init__(end, node)
        self._asked = asked

    def end(self, until: float = 0.0) -> None:
        self.socket.close()  # it leaves at once, whatever it is doing

    def death(self, step: str) -> Failure:
        import ray

        self.socket.close()
        try:
            code, words = ray.get(self._asked, timeout=GONE_SECONDS + STOP_SECONDS)
        except ray.exceptions.RayError as error:  # the node is gone, or Ray's own process there
            said = str(error).strip().splitlines()
            text = f"stage '{step}': node {self.node} is gone: {said[0] if said else type(error).__name__}"
            return Failure("network", (text,), step)
        return of_a_death(int(code), step, str(words))


class RayPool(Pool):
    """Processes wherever the cluster has a free core."""

    remote = True

    def __init__(self, address: str, limits: Limits, most: int) -> None:
        ray = _ray()
        self._limits, self._budgets = limits, dict[str, Budget]()
        self._token = secrets.token_hex(16)
        _connect(address)
        cores = int(ray.cluster_resources().get("CPU", 1))
        self._at_a_time = min(limits.jobs or cores, cores, most)
        self._host = ray.util.get_node_ip_address() if "://" not in address else _route_to(address)
        self._listener = socket.create_server((self._host, 0), backlog=128)
        self._listener.settimeout(CONNECT_SECONDS)
        self._start = ray.remote(num_cpus=1, max_retries=0)(run_worker)
        self._waiting: dict[str, ObjectRef] = {}
        for _ in range(self._at_a_time):
            self._ask()
        try:
            self._ready = [self._accepted() for _ in range(self._at_a_time)]
        except BaseException:
            self.close()
            raise

    def new(self) -> Worker:
        if self._ready:
            return self._ready.pop()
        self._ask()
        return self._accepted()

    def budgets(self) -> Mapping[str, Budget]:
        return self._budgets

    def models_at_a_time(self) -> int:
        return self._at_a_time

    def close(self) -> None:
        """Close our socket, and leave the cluster; one that was started here ends."""
        import ray

        self._listener.close()
        ray.shutdown()

    def _ask(self) -> None:
        name = secrets.token_hex(8)
        given = {word: os.environ[word] for word in PASSED_ON if word in os.environ}
        where = (self._host, self._listener.getsockname()[1], f"{self._token} {name}")
        self._waiting[name] = self._start.remote(
            where, COMMAND, environment(given)["PYTHONPATH"], given, str(Path.cwd())
        )

    def _accepted(self) -> RayWorker:
        """The next process that connects and knows our word. Raises PlanError where none comes, or it is another's."""
        while True:
            try:
                end, _ = self._listener.accept()
            except TimeoutError:
                raise PlanError(
                    Problem(
                        "Ray",
                        f"no process connected to {self._host} in {CONNECT_SECONDS:.0f} s",
                        "",
                        "is it reachable from there?",
                    )
                ) from None
            hello = _hello(end)
            name = str(hello.get("name", ""))
            if not hmac.compare_digest(str(hello.get("token", "")), self._token) or name not in self._waiting:
                end.close()  # a stranger
                continue
            node = str(hello["node"])
            _check_versions(node, hello["versions"])
            memory = self._limits.memory or hello["memory"]
            machine = Machine(self._limits.cores or hello["cores"], memory)
            self._budgets.setdefault(node, Budget(machine, self._limits.accelerators))
            return RayWorker(end, node, self._waiting.pop(name))


def _ray() -> ModuleType:
    """Ray itself. Raises PlanError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")  # under `uv run` workers would build environments anew
    try:
        return importlib.import_module("ray")
    except ImportError:
        raise PlanError(Problem("--engine", "Ray is not installed", "", install_command("ray"))) from None


def _connect(address: str) -> None:
    """Start Ray here, or connect to a cluster. Raises PlanError where there is none."""
    import ray

    words = {"address": address} if address != RAY else {"include_dashboard": False}
    handlers = {which: signal.getsignal(which) for which in (signal.SIGINT, signal.SIGTERM)}
    try:
        ray.init(**words, log_to_driver=False, configure_logging=False, ignore_reinit_error=True)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = "`ray start --head` starts one; --engine ray starts one for this batch"
        raise PlanError(Problem(f"--engine {address}", f"no cluster: {said}", "", remedy)) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            for which, handler in handlers.items():
                signal.signal(which, handler)  # Ray's own would end us with nothing cleared


def _route_to(address: str) -> str:
    """This machine's address as the cluster sees it."""
    host, _, port = address.partition("://")[2].partition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, int(port or 10001)))  # nothing is sent
        return str(probe.getsockname()[0])


def _hello(end: socket.socket) -> JsonDict:
    """The first line that a process says; nothing where it says none in time."""
    end.settimeout(HELLO_SECONDS)
    said = bytearray()
    with contextlib.suppress(OSError, ValueError):
        while not said.endswith(b"\n") and len(said) < HELLO_BYTES:
            if not (byte := end.recv(1)):  # what follows is not ours to take
                break
            said += byte
        end.settimeout(None)
        found = json.loads(said)
        return found if isinstance(found, dict) else {}
    return {}


def _check_versions(node: str, theirs: Mapping[str, str]) -> None:
    """Raise PlanError where a node would make other bytes than this machine."""
    ours = _versions()
    if other := sorted(name for name in ours if theirs.get(name) != ours[name]):
        said = ", ".join(f"{name} {theirs.get(name)}" for name in other)
        wanted = ", ".join(f"{name} {ours[name]}" for name in other)
        raise PlanError(Problem(f"node {node}", f"has {said}", wanted, "install the same versions on all nodes"))


def _versions() -> dict[str, str]:
    return {"convert": RELEASE, "python": platform.python_version(), **{name: version(name) for name in SAME}}


def run_worker(
    where: tuple[str, int, str], command: Sequence[str], path: str, given: Mapping[str, str], folder: str
) -> tuple[int, str]:
    """On a node: a process of ours that is connected to the batch; how it ended, and its last words."""
    host, port, word = where
    token, _, name = word.partition(" ")
    machine = this_machine()
    with tempfile.TemporaryDirectory(prefix="convert-ray-") as place, socket.create_connection((host, port)) as end:
        hello: JsonDict = {"token": token, "name": name, "node": socket.gethostname(), "versions": _versions()}
        hello |= {"cores": machine.cores, "memory": machine.memory_bytes}
        end.sendall(json.dumps(hello).encode() + b"\n")
        log = Path(place) / "printed.log"
        with open(log, "ab") as printed:
            process = subprocess.Popen(
                [sys.executable, *command[1:], str(end.fileno())],
                pass_fds=(end.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, **given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                cwd=folder if Path(folder).is_dir() else None,
                start_new_session=True,
            )
        end.close()  # it is the process's now, and ends with it
        try:
            return process.wait(), last_words(log)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
