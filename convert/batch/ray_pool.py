"""Processes on the nodes of a Ray cluster. Ray starts them and says how they ended; nothing else goes through it.

    ray            starts Ray on this machine
    auto           the cluster that this machine is a node of
    ray://H:P      a cluster elsewhere, by its client server

Each process connects to a socket of ours and is from then on as one of this machine: what it asks for, what it says,
its death. Models, recipes and outputs lie in a store, or on a file system that all nodes see under the same paths; Ray
moves none of it, and may forget everything at any moment: what is published is done, what was not is made again. Where
Ray itself is gone, it is asked for again until it is back, and processes that live go on meanwhile.
"""

from __future__ import annotations

import contextlib
import hmac
import importlib.util
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from convert.batch.failures import Failure, of_a_death
from convert.batch.options import Limits
from convert.batch.pool import COMMAND, GONE_SECONDS, STOP_SECONDS, Pool, Worker, environment
from convert.batch.resources import Budget
from convert.batch.versions import versions
from convert.distribution import install_command
from convert.errors import PlanError, Problem
from convert.events import Event, OnEvent
from convert.json_types import JsonDict
from convert.needs import Machine

CONNECT_SECONDS = 120.0  # for Ray to find a place, and a Python to start there
GIVE_UP_SECONDS = 900.0  # without any process, once there were some
AGAIN_SECONDS = 5.0  # between tries to reach a cluster that went away
KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
HELLO_BYTES, HELLO_SECONDS = 1 << 16, 10.0
STARTER = "convert.batch.ray_starter"
STORE_WORDS = ("FSSPEC_S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
HUB_WORDS = ("HF_ENDPOINT", "HF_HUB_OFFLINE")
PASSED_ON = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", *HUB_WORDS, *STORE_WORDS)  # no secrets: nodes have theirs


class Starter:
    """Ray's process, as seen from here."""

    def __init__(self, address: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", STARTER, str(theirs.fileno()), address],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(os.environ),
                start_new_session=True,  # Ctrl-C is ours
            )
        self._socket, self._buffer = ours, bytearray()
        self.cores, self.host, self.refused = 0, "", ""  # cores: 0 until it is connected
        self.gone = False
        self.ends: dict[str, JsonDict] = {}  # how processes ended, by their names

    def start(self, name: str, arguments: list[object]) -> None:
        """Ask for one more process."""
        with contextlib.suppress(OSError):
            self._socket.sendall(json.dumps({"start": name, "arguments": arguments}).encode() + b"\n")

    def listen(self, seconds: float) -> None:
        """Take what it has said, waiting at most so long for something."""
        if self.gone or not select.select([self._socket], [], [], seconds)[0]:
            return
        try:
            chunk = self._socket.recv(1 << 16)
        except OSError:
            chunk = b""
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in filter(None, lines):
            words: JsonDict = json.loads(line)
            if "ready" in words:
                self.cores, self.host = words["ready"]["cores"], words["ready"]["host"]
            elif "refused" in words:
                self.refused = str(words["refused"])
            else:
                self.ends[words.get("ended") or words["lost"]] = words
        self.gone = not chunk

    def close(self) -> None:
        """Let it leave the cluster; one that was started here ends."""
        self._socket.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class RayWorker(Worker):
    """One on a node of the cluster."""

    def __init__(self, end: socket.socket, node: str, name: str, pool: RayPool) -> None:
        super().__init__(end, node)
        self.name, self._pool, self.ended = name, pool, False

    def end(self, until: float = 0.0) -> None:
        self.socket.close()  # it leaves at once, whatever it is doing
        self.ended = True

    def death(self, step: str) -> Failure:
        self.end()
        words = self._pool.end_of(self.name)
        if "code" in words:
            return of_a_death(int(words["code"]), step, str(words["words"]))
        text = f"stage '{step}': node {self.node} is gone: {words['why']}"
        return Failure("network", (text,), step)


class RayPool(Pool):
    """Processes wherever the cluster has a free core."""

    remote = True

    def __init__(self, address: str, limits: Limits, most: int, on_event: OnEvent = lambda event: None) -> None:
        if importlib.util.find_spec("ray") is None:
            raise PlanError(Problem("--engine", "Ray is not installed", "", install_command("ray")))
        self._address, self._limits, self._most, self._on_event = address, limits, most, on_event
        self._budgets: dict[str, Budget] = {}
        self._token = secrets.token_hex(16)
        self._waiting: dict[str, float] = {}  # processes that were asked for, since when
        self._ready: list[RayWorker] = []
        self._alive: list[RayWorker] = []
        self._starter = Starter(address)
        self._tried = self._had = time.monotonic()
        self._listener: socket.socket | None = None
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def new(self) -> Worker | None:
        self._look(0.0)
        now = time.monotonic()
        self._alive = [worker for worker in self._alive if not worker.ended]
        if self._alive:
            self._had = now
        elif now - self._had > GIVE_UP_SECONDS:
            raise self._nobody(GIVE_UP_SECONDS)
        if self._ready:
            return self._ready.pop()
        if self._starter.gone:
            self._reach_again(now)
        elif self._starter.cores and len(self._waiting) + len(self._alive) < self._at_a_time:
            self._ask()
        return None

    def budgets(self) -> Mapping[str, Budget]:
        return self._budgets

    def models_at_a_time(self) -> int:
        return self._at_a_time

    def end_of(self, name: str) -> JsonDict:
        """How a process ended whose socket is closed, or that nobody knows."""
        until = time.monotonic() + GONE_SECONDS + STOP_SECONDS
        while name not in self._starter.ends and not self._starter.gone and time.monotonic() < until:
            self._starter.listen(0.2)
        return self._starter.ends.pop(name, {"lost": name, "why": "Ray does not say why"})

    def close(self) -> None:
        """Close our socket, and leave the cluster; one that was started here ends."""
        if self._listener is not None:
            self._listener.close()
        for worker in self._ready:
            worker.end()
        self._starter.close()

    # ---- connecting

    def _connect(self) -> None:
        """Wait for Ray, and for the first processes. Raises PlanError where there are none."""
        until = time.monotonic() + CONNECT_SECONDS
        while not self._starter.cores:
            self._starter.listen(0.2)
            if self._starter.gone or time.monotonic() > until:
                said = self._starter.refused or "it does not answer"
                remedy = "`ray start --head` starts one; --engine ray starts one for this batch"
                raise PlanError(Problem(f"--engine {self._address}", f"no cluster: {said}", "", remedy))
        cores = self._starter.cores
        self._at_a_time = min(self._limits.jobs or cores, cores, self._most)
        self._listener = socket.create_server((self._starter.host, 0), backlog=128)
        for _ in range(self._at_a_time):
            self._ask()
        while len(self._ready) < self._at_a_time and time.monotonic() < until:
            for problem in self._look(0.2):
                raise PlanError(problem)
        if not self._ready:
            raise self._nobody(CONNECT_SECONDS)

    def _nobody(self, seconds: float) -> PlanError:
        got = f"no process connected to {self._starter.host} in {seconds:.0f} s"
        return PlanError(Problem("Ray", got, "", "is it reachable from there?"))

    def _reach_again(self, now: float) -> None:
        """Start Ray's process again, not too often."""
        if now - self._tried < AGAIN_SECONDS:
            return
        self._starter.close()
        self._on_event(Event("warning", "", {"text": "the cluster is out of reach: connecting again"}))
        self._tried, self._waiting = now, {}
        self._starter = Starter(self._address)

    def _ask(self) -> None:
        assert self._listener is not None
        name = secrets.token_hex(8)
        given = {word: os.environ[word] for word in PASSED_ON if word in os.environ}
        where = [*self._listener.getsockname()[:2], self._token, name]
        self._waiting[name] = time.monotonic()
        path = environment(given)["PYTHONPATH"]
        self._starter.start(name, [where, list(COMMAND), path, given, str(Path.cwd())])

    def _look(self, seconds: float) -> list[Problem]:
        """Take who has connected, and hear how others ended; what was wrong with some."""
        self._starter.listen(0.0)
        for name in [name for name in self._waiting if name in self._starter.ends]:
            del self._waiting[name]  # it ended before it connected
        problems: list[Problem] = []
        listener = self._listener
        while listener is not None and select.select([listener], [], [], seconds)[0]:
            end, _ = listener.accept()
            hello = _hello(end)
            name = str(hello.get("name", ""))
            if not hmac.compare_digest(str(hello.get("token", "")), self._token) or name not in self._waiting:
                end.close()  # a stranger
                continue
            del self._waiting[name]
            if (problem := _other_versions(str(hello["node"]), hello["versions"])) is not None:
                end.close()
                problems.append(problem)
                self._on_event(Event("warning", "", {"text": str(problem)}))
                continue
            self._join(end, hello, name)
            seconds = 0.0
        return problems

    def _join(self, end: socket.socket, hello: JsonDict, name: str) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a machine that is cut off says no farewell
        for option, seconds in KEEPALIVE.items():
            if hasattr(socket, option):
                end.setsockopt(socket.IPPROTO_TCP, vars(socket)[option], seconds)
        node = str(hello["node"])
        memory = self._limits.memory or hello["memory"]
        machine = Machine(self._limits.cores or hello["cores"], memory)
        self._budgets.setdefault(node, Budget(machine, self._limits.accelerators))
        worker = RayWorker(end, node, name, self)
        self._ready.append(worker)
        self._alive.append(worker)


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


def _other_versions(node: str, theirs: Mapping[str, str]) -> Problem | None:
    """Why a node would make other bytes than this machine."""
    ours = versions()
    other = sorted(name for name in ours if theirs.get(name) != ours[name])
    if not other:
        return None
    said = ", ".join(f"{name} {theirs.get(name)}" for name in other)
    wanted = ", ".join(f"{name} {ours[name]}" for name in other)
    return Problem(f"node {node}", f"has {said}", wanted, "install the same versions on all nodes")
