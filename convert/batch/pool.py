"""The processes that convert models, as seen from the one that hands out tasks.

A process holds one end of a socket, on this machine or another; where it ends, however, its socket ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

from convert.batch.failures import Failure, of_a_death
from convert.batch.resources import Budget
from convert.json_types import JsonDict

COMMAND = (sys.executable, "-m", "convert.batch.worker")
CHUNK_BYTES = 1 << 16
QUOTED_BYTES = 4000  # of the last that it printed
NATIVE = ("GGML_ASSERT", "terminate called", "Fatal Python error", "Assertion")  # sentences that matter
STOP_SECONDS = 10.0  # for a step to clear what it has begun
GONE_SECONDS = 5.0  # between the end of a process's socket and its own
HERE = ""  # the name of this machine among nodes


class Worker(ABC):
    """One process. It takes one task at a time; `job` is its name."""

    def __init__(self, end: socket.socket, node: str = HERE) -> None:
        self.socket, self.node = end, node
        self.job, self.memory_bytes = "", 0
        self._buffer = bytearray()

    def start(self, job: str, task: Mapping[str, object]) -> None:
        """Give it a task."""
        self.job = job
        self.say(**task)

    def say(self, **message: object) -> None:
        """Send one message; to a process that is gone nothing, which its end will tell."""
        with contextlib.suppress(OSError):
            self.socket.sendall(json.dumps(message, default=str).encode() + b"\n")

    def hear(self) -> Iterator[JsonDict | None]:
        """What it said since; None at its end."""
        try:
            chunk = self.socket.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        self._buffer += chunk
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest)
        for line in filter(None, lines):
            yield json.loads(line)
        if not chunk:
            yield None

    def interrupt(self) -> None:
        """Tell it to clear what it has begun, and end."""
        self.say(stop=True)

    @abstractmethod
    def end(self, until: float = 0.0) -> None:
        """End it, by force after the moment `until`."""

    @abstractmethod
    def death(self, step: str) -> Failure:
        """Why one whose socket is closed ended, in that step; it is gone when this returns."""


class Pool(ABC):
    """Where processes come from."""

    remote = False  # whether they run elsewhere, on files that all see

    @abstractmethod
    def new(self) -> Worker | None:
        """One more process; None where there is no place for it now. Raises OSError where it cannot be started."""

    @abstractmethod
    def budgets(self) -> Mapping[str, Budget]:
        """What steps may take in all, on each node."""

    @abstractmethod
    def models_at_a_time(self) -> int:
        """How many processes it can give at a time."""

    @abstractmethod
    def close(self) -> None:
        """End what serves them all."""


class LocalWorker(Worker):
    """One on this machine."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        with open(log, "ab") as printed, theirs:
            self.process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env=environment(os.environ),
                start_new_session=True,  # Ctrl-C is ours to hand on
            )

    def start(self, job: str, task: Mapping[str, object]) -> None:
        with contextlib.suppress(OSError):
            os.truncate(self._log, 0)
        super().start(job, task)

    def end(self, until: float = 0.0) -> None:
        _ended(self.process, until)
        self.socket.close()

    def death(self, step: str) -> Failure:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GONE_SECONDS)
        code = _ended(self.process)
        self.socket.close()
        return of_a_death(code, step, last_words(self._log))


class LocalPool(Pool):
    """Processes of this machine."""

    def __init__(self, folder: Path, budget: Budget, at_a_time: int) -> None:
        self._folder, self._budget, self._at_a_time = folder, budget, at_a_time
        self._started = 0

    def new(self) -> Worker:
        self._started += 1
        return LocalWorker(self._folder / f"{self._started}.log")

    def budgets(self) -> Mapping[str, Budget]:
        return {HERE: self._budget}

    def models_at_a_time(self) -> int:
        return self._at_a_time

    def close(self) -> None: ...


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a process of ours is started with: it imports from where this one does."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, given.get("PYTHONPATH", "")]))
    return {**given, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def last_words(log: Path) -> str:
    """What native code said when it ended a process; else the last line that was printed."""
    with contextlib.suppress(OSError):
        lines = log.read_bytes()[-QUOTED_BYTES:].decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        return next((line for line in said if any(word in line for word in NATIVE)), said[-1] if said else "")[:300]
    return ""


def _ended(process: subprocess.Popen[bytes], until: float = 0.0) -> int:
    """End a process and what it started; its exit code."""
    if until:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.01, until - time.monotonic()))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()
