"""A command in a process of its own, with a limit of time and of memory, and what it took of both.

Time is the processors' (a busy machine makes nothing a hang), and a while in which nothing moves at all.

Memory is that of the whole session of processes: pages that are theirs alone or in shared memory (RssAnon and RssShmem
of proc(5)); pages of mapped files are the kernel's to take back.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.context
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import reduction as context_reduction
from pathlib import Path
from typing import Any

from tests import processes

LOOK_SECONDS = 0.1
ADDRESS_BYTES = 64 << 30  # what one process may map: nothing here wants a part of it
WRITTEN_BYTES = 2 << 30  # the largest file it may write


@dataclass(frozen=True)
class Limits:
    """What a command may take."""

    seconds: float  # of processors, in all
    memory_bytes: int
    idle_seconds: float = 150.0  # without a tick of any


@dataclass(frozen=True)
class Ran:
    """How it ended. `code` is None where it passed a limit, which `passed` names."""

    code: int | None
    out: str
    err: str
    seconds: float  # of processors
    memory_bytes: int
    passed: str = ""


def run(
    words: Sequence[str], folder: Path, limits: Limits, environment: Mapping[str, str], *, fresh: bool = False
) -> Ran:
    """`convert` with these words, run in `folder`; it and all it started is ended where it passes a limit.

    In a process of its own, forked from one that has imported what it needs already; `fresh`: in a new Python.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        outputs = out.fileno(), err.fileno()
        start = _fresh if fresh else _forked
        code, watch = start(words, folder, limits, environment, outputs)
        out.seek(0)
        err.seek(0)
        text = [file.read(1 << 20).decode(errors="replace") for file in (out, err)]
    return Ran(None if watch.passed else code, *text, watch.used, watch.most, watch.passed)


Outputs = tuple[int, int]


def _fresh(
    words: Sequence[str], folder: Path, limits: Limits, environment: Mapping[str, str], outputs: Outputs
) -> tuple[int, _Watch]:
    out, err = outputs
    options = {"cwd": folder, "stdin": subprocess.DEVNULL, "stdout": out, "stderr": err, "start_new_session": True}
    command = [sys.executable, "-m", "convert", *words]
    with processes.started(command, env=dict(environment), preexec_fn=_confine, **options) as process:
        watch = _Watch(process.pid, limits)
        code = process.wait(processes.LIMIT * 2)
        watch.end()
    return code, watch


def _forked(
    words: Sequence[str], folder: Path, limits: Limits, environment: Mapping[str, str], outputs: Outputs
) -> tuple[int, _Watch]:
    context = _forks()
    held = [context_reduction.DupFd(number) for number in outputs]
    process = context.Process(target=_command, args=(list(words), str(folder), dict(environment), held))
    process.start()
    watch = _Watch(process.pid or 0, limits)
    process.join(processes.LIMIT * 2)
    watch.end()
    process.join(60)
    code = process.exitcode or 0
    process.close()
    return code, watch


@functools.cache
def _forks() -> multiprocessing.context.ForkServerContext:
    """Processes that are forked from one which has imported the command line, torch and transformers."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.robust.preload"])
    return context


def _command(words: list[str], folder: str, environment: dict[str, str], held: list[Any]) -> None:
    """Be the command."""
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate([nothing, *(each.detach() for each in held)]):
        os.dup2(descriptor, number)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    _confine()
    sys.argv = ["convert", *words]
    from convert.cli import main

    try:
        main()
    except SystemExit as ended:
        sys.stdout.flush()
        os._exit(ended.code if isinstance(ended.code, int) else 1)
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WRITTEN_BYTES, WRITTEN_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a file that grows too large is an error of the write


class _Watch:
    """Looks at a session's memory and processor time, and ends it."""

    def __init__(self, session: int, limits: Limits) -> None:
        self.most, self.used, self.passed = 0, 0.0, ""
        self._session, self._limits = session, limits
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join(60)
        kill_session(self._session)

    def _look(self) -> None:
        moved = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            memory, used = usage_of(self._session)
            if used > self.used:
                moved, self.used = time.monotonic(), used
            self.most = max(self.most, memory)
            self.passed = self._judged(time.monotonic() - moved)
            if self.passed:
                kill_session(self._session)
                return

    def _judged(self, idle: float) -> str:
        if self.most > self._limits.memory_bytes:
            return f"took {self.most >> 20} MB"
        if self.used > self._limits.seconds:
            return f"went on for {self.used:.0f} s"
        return f"did nothing for {idle:.0f} s" if idle > self._limits.idle_seconds else ""


def members(session: int) -> list[int]:
    """The processes of a session, and those that its processes started in sessions of their own."""
    parents: dict[int, tuple[int, int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1]), int(fields[3])
    found = {pid for pid, (_, theirs) in parents.items() if theirs == session}
    while more := {pid for pid, (parent, _) in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def usage_of(session: int) -> tuple[int, float]:
    """(bytes of memory that a session's processes take, seconds of processors that they and those before them took)."""
    found = members(session)
    return sum(map(_own_bytes, found)), sum(map(_own_seconds, found))


def _own_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) << 10
    return total


def _own_seconds(pid: int) -> float:
    """Of the process and of its children that have ended: utime, stime, cutime, cstime of proc(5)."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def kill_session(session: int, how: Callable[[Sequence[int]], Sequence[int]] = lambda pids: pids) -> list[int]:
    """kill -9 to those of the session's processes that `how` chooses; which they were."""
    chosen = list(how(members(session)))
    for pid in chosen:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    return chosen
