"""The events of a run, and the Progress of a step, which emits them and writes the step's log. A leaf."""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from convert.json_types import JsonObject

PROGRESS_SECONDS = 0.1


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
        self._what, self._unit, self._total, self._done, self._emitted = "", "B", 0, 0, 0.0

    def __enter__(self) -> StepProgress:
        return self

    def __exit__(self, *exception: object) -> None:
        self._finish()
        if self._file:
            self._file.close()

    def start(self, what: str, total: int, unit: str = "B") -> None:
        self._finish()
        self._what, self._unit, self._total, self._done, self._emitted = what, unit, total, 0, time.monotonic()
        self._write(f"{what} ({total} {unit})")
        self._on_event(Event("task", self._step, {"what": what, "total": total, "unit": unit}))

    def advance(self, amount: int) -> None:
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

    def _finish(self) -> None:
        if self._what:
            self._emit()
            self._what = ""

    def _emit(self) -> None:
        self._emitted = time.monotonic()
        data = {"what": self._what, "done": self._done, "total": self._total, "unit": self._unit}
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
