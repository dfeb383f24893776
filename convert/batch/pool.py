"""The processes that convert models, as seen from the one that hands out tasks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from convert.json_types import JsonDict

COMMAND = (sys.executable, "-m", "convert.batch.worker")
CHUNK_BYTES = 1 << 16
QUOTED_BYTES = 4000  # of the last that it printed
NATIVE = ("GGML_ASSERT", "terminate called", "Fatal Python error", "Assertion")  # sentences that matter
STOP_SECONDS = 10.0  # for a step to clear what it has begun


class Worker:
    """One process. It takes one task at a time; `job` is its name."""

    def __init__(self, log: Path) -> None:
        ours, theirs = socket.socketpair()
        self._log, self._buffer = log, bytearray()
        self.socket, self.job, self.memory_bytes, self.tasks = ours, "", 0, 0
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        with open(log, "ab") as printed, theirs:
            self.process = subprocess.Popen(
                [*COMMAND, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=printed,
                env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                start_new_session=True,  # Ctrl-C is ours to hand on
            )

    def start(self, job: str, task: Mapping[str, object]) -> None:
        """Give it a task."""
        self.job, self.tasks = job, self.tasks + 1
        with contextlib.suppress(OSError):
            os.truncate(self._log, 0)
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

    def last_words(self) -> str:
        """What native code said when it ended the process; else the last line that was printed."""
        with contextlib.suppress(OSError):
            lines = self._log.read_bytes()[-QUOTED_BYTES:].decode(errors="replace").splitlines()
            said = [line.strip() for line in lines if line.strip()]
            return next((line for line in said if any(word in line for word in NATIVE)), said[-1] if said else "")[:300]
        return ""

    def interrupt(self) -> None:
        """Tell it to clear what it has begun, and end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGINT)

    def end(self, until: float = 0.0) -> int:
        """End it, by force after the moment `until`; its exit code."""
        if until:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(max(0.01, until - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and what it started
        code = self.process.wait()
        self.socket.close()
        return code

    def died(self) -> int:
        """The exit code of one whose socket is closed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return self.end()
