"""The events of a run, and the Progress of a step, which emits them and writes the step's log. A leaf."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from convert.json_types import JsonObject

PROGRESS_SECONDS = 0.1
BEAT_SECONDS = 1.0  # a task that takes longer between two of its units says that it is still there


@dataclass(frozen=True)
class Event:
    """Something a listener may want to show. `data` holds JSON values only.

    kind: plan, step_started, step_skipped, step_finished, task, progress, note, warning
    """

    kind: str
    step: str = ""
    data: JsonObject = field(default_factory=dict)


OnEvent = Callable[[Event], None]


class StepProgress:
    """The Progress a stage is given: emits events, not too often, and writes the step's log, if it has one."""

    def __init__(
        self, step: str, on_event: OnEvent, log: Path | None = None, key: str = "", recipe_sha256: str = ""
    ) -> None:
        self.path, self.key, self.recipe_sha256 = log, key, recipe_sha256
        self._step, self._on_event = step, on_event
        self._file: IO[str] | None = None
        self._what, self._unit, self._total, self._done = "", "B", 0, 0
        self._began = self._emitted = 0.0
        self._lock = threading.RLock()  # the beat is another thread's
        self._closed = threading.Event()
        self._beat: threading.Thread | None = None

    def __enter__(self) -> StepProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._closed.set()
        if self._beat is not None:
            self._beat.join()
        self._finish()
        if self._file:
            self._file.close()

    def start(self, what: str, total: int, unit: str = "B") -> None:
        with self._lock:
            self._finish()
            self._what, self._unit, self._total, self._done = what, unit, total, 0
            self._began = self._emitted = time.monotonic()
            self._write(f"{what} ({total} {unit})" if total else what)
            self._on_event(Event("task", self._step, {"what": what, "total": total, "unit": unit}))
        if self._beat is None:
            self._beat = threading.Thread(target=self._keep_beating, name=f"beat {self._step}", daemon=True)
            self._beat.start()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() - self._emitted >= PROGRESS_SECONDS:
                self._emit()

    def note(self, text: str) -> None:
        self._write(text)
        self._on_event(Event("note", self._step, {"text": text}))

    def warn(self, text: str) -> None:
        self._write(f"warning: {text}")
        self._on_event(Event("warning", self._step, {"text": text}))

    def log(self, text: str) -> None:
        """A line for the log alone."""
        self._write(text)

    def trace(self, error: BaseException) -> None:
        """Keep the traceback in the log; the user gets one line."""
        self._write("".join(traceback.format_exception(error)))

    def _keep_beating(self) -> None:
        """Say how long a task has been at it, for as long as it says nothing itself."""
        with contextlib.suppress(BaseException):  # a listener that fails does so where the step emits, too
            while not self._closed.wait(BEAT_SECONDS / 2):
                with self._lock:
                    if self._what and time.monotonic() - self._emitted >= BEAT_SECONDS:
                        self._emit()

    def _finish(self) -> None:
        if self._what:
            self._emit()
            self._what = ""

    def _emit(self) -> None:
        self._emitted = time.monotonic()
        seconds = round(self._emitted - self._began, 1)
        data = {"what": self._what, "done": self._done, "total": self._total, "unit": self._unit, "seconds": seconds}
        self._on_event(Event("progress", self._step, data))

    def _write(self, text: str) -> None:
        if self.path is None:
            return
        # A log that cannot be written (the disk is full) must not hide the error it was to record.
        with contextlib.suppress(OSError):
            if self._file is None:
                self.path.parent.mkdir(exist_ok=True)
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by __exit__
            self._file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._file.flush()
