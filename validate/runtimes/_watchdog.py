"""Ends a process that does not answer, so that a deadlock in native code is a failed row and not a run without end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType

CHECK_SECONDS = 1.0
IDLE_SECONDS = 300.0  # without a tick of processor time: waiting for a lock that nobody holds
ANSWER_SECONDS = 7200.0  # however busy it is: one question is one window of text or one image


class Watchdog:
    """Watches one process; `with watchdog:` is the time in which an answer is owed.

    Seconds are counted by the watching thread, not read off a clock: a run that was stopped with Ctrl-Z, or slept with
    its machine, goes on afterwards.
    """

    def __init__(self, process: subprocess.Popen[bytes], group: bool = False) -> None:
        self._group = group  # of processes: what it started counts, and ends with it
        self.reason = ""  # why the process was ended, once it was
        self._process = process
        self._question = 0  # odd while an answer is owed
        self._busy: float | None = None  # seconds of processors that the answer may take
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    def within(self, seconds: float | None) -> Watchdog:
        """Itself: the next answer may take so many seconds of processors, None: as many as any."""
        self._busy = seconds
        return self

    def __enter__(self) -> None:
        self._question += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._question += 1

    def close(self) -> None:
        self._over.set()

    def _watch(self) -> None:
        question, used, idle, total, began = 0, -1.0, 0.0, 0.0, 0.0
        while not self._over.wait(CHECK_SECONDS):
            if self._question % 2 == 0 or self._question != question:
                question, used, idle, total = self._question, -1.0, 0.0, 0.0
                began = self._seconds() or 0.0
                continue
            now = self._seconds()
            idle = idle + CHECK_SECONDS if now == used else 0.0
            used, total = -1.0 if now is None else now, total + CHECK_SECONDS
            if idle >= IDLE_SECONDS or total >= ANSWER_SECONDS:
                stuck = idle >= IDLE_SECONDS
                self.reason = f"did nothing for {idle:.0f} s" if stuck else f"gave no answer for {total:.0f} s"
                self._end()
                return
            if self._busy is not None and now is not None and now - began > self._busy:
                self.reason = f"gave no answer in {now - began:.0f} s of a processor"
                self._end()
                return

    def _seconds(self) -> float | None:
        return (group_seconds if self._group else processor_seconds)(self._process.pid)

    def _end(self) -> None:
        if not self._group:
            self._process.kill()
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def processor_seconds(pid: int) -> float | None:
    """Processor time of all threads of a process so far; None where the system does not say."""
    try:
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime of proc(5)
    except (OSError, IndexError, ValueError):
        return None


def group_seconds(leader: int) -> float | None:
    """The same of all processes of a group that are there; None where the system does not say."""
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            if int(_stat(int(entry.name))[2]) == leader:
                members.append(int(entry.name))
    found = [seconds for member in members if (seconds := processor_seconds(member)) is not None]
    return sum(found) if found else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command's name: state, parent, group and so on, as in proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
