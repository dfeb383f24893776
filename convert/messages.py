"""What a process that `convert.child` started reports to the one that started it, over a pipe of its own. A leaf.

A message is a line of JSON with a `kind`; an empty line goes before it, so that rubbish without an end stays apart:

    {"kind": "start", "what": "quantizing 30 layers", "total": 30, "unit": "layer"}
    {"kind": "advance", "amount": 1}
    {"kind": "note", "text": "…"}   {"kind": "warn", "text": "…"}
    {"kind": "result", "value": {…}}
    {"kind": "failure", "text": "ValueError: …"}

Standard output and standard error are for what libraries print; nobody reads messages there.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping

from convert.json_types import JsonDict
from convert.progress import Progress, Silent

SHOWN = 200  # characters of an unreadable message worth a note


class LineReader:
    """Bytes as they come through a pipe -> lines of text; what goes beyond `limit` bytes of a line is counted only."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        self._dropped = 0

    def feed(self, chunk: bytes) -> Iterator[str]:
        """The lines that end in this chunk, empty ones left out; no bytes are the end of the last line."""
        first, *others = (chunk or b"\n").replace(b"\r", b"\n").split(b"\n")  # progress bars end their lines with \r
        self._append(first)
        for part in others:
            yield from self._end()
            self._append(part)

    def _append(self, part: bytes) -> None:
        room = self._limit - len(self._line)
        self._line += part[:room]
        self._dropped += max(0, len(part) - room)

    def _end(self) -> Iterator[str]:
        text = self._line.decode(errors="replace").strip()
        if self._dropped:
            text += f" … ({self._dropped:,} more bytes)"
        self._line.clear()
        self._dropped = 0
        if text:
            yield text


# ---- the process that was started


class Parent:
    """The Progress of a process that was started; what it gets, the parent's Progress gets."""

    key = ""
    recipe_sha256 = ""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write

    def start(self, what: str, total: int, unit: str = "B") -> None:
        """A long task begins."""
        self._send(kind="start", what=what, total=total, unit=unit)

    def advance(self, amount: int) -> None:
        """`amount` more units of the running task are done."""
        self._send(kind="advance", amount=amount)

    def note(self, text: str) -> None:
        """One line for the log."""
        self._send(kind="note", text=text)

    def warn(self, text: str) -> None:
        """One line the user should see."""
        self._send(kind="warn", text=text)

    def log(self, text: str) -> None:
        """One line for the log alone."""
        self._send(kind="log", text=text)

    def result(self, value: Mapping[str, object]) -> None:
        """What the process was started for, as JSON can say it; the last one counts."""
        self._send(kind="result", value=value)

    def failure(self, text: str) -> None:
        """Why there will be no result."""
        self._send(kind="failure", text=text)

    def _send(self, **message: object) -> None:
        self._write(f"\n{json.dumps(message)}\n".encode())


class _Pipe:
    """The writing end of the pipe: whole messages from any thread, for as long as it is there."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._identity = self._identify()
        os.set_inheritable(descriptor, False)  # what this process starts has nothing to report

    def _identify(self) -> tuple[int, int]:
        found = os.fstat(self._descriptor)
        return found.st_dev, found.st_ino

    def write(self, message: bytes) -> None:
        """Write it all, or nothing where a library closed the pipe: its number may be another file's by now."""
        with self._lock, contextlib.suppress(OSError):
            while message and self._identify() == self._identity:
                message = message[os.write(self._descriptor, message) :]


_parent = Parent(lambda message: None)


def parent() -> Parent:
    """Who started this process. Outside of one that was started by `convert.child` it emits nothing."""
    return _parent


def connect(write: Callable[[bytes], object]) -> None:
    """Let `write` have every message of this process from now on."""
    global _parent  # noqa: PLW0603 - a process has one parent
    _parent = Parent(write)


def connect_descriptor(descriptor: int) -> None:
    """Send every message of this process into an inherited pipe."""
    connect(_Pipe(descriptor).write)


# ---- the process that started it


class Child:
    """What a process has reported so far; its progress and notes are handed on as they come."""

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress or Silent()
        self.result: JsonDict | None = None
        self.failure = ""

    def take(self, line: str) -> None:
        """Read one message; a line that is none becomes a note."""
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        match message:
            case {"kind": "start", "what": str(what), "total": int(total), "unit": str(unit)}:
                self._progress.start(_encodable(what), total, _encodable(unit))
            case {"kind": "advance", "amount": int(amount)}:
                self._progress.advance(amount)
            case {"kind": "note", "text": str(text)}:
                self._progress.note(_encodable(text))
            case {"kind": "warn", "text": str(text)}:
                self._progress.warn(_encodable(text))
            case {"kind": "log", "text": str(text)}:
                self._progress.log(_encodable(text))
            case {"kind": "result", "value": dict(value)}:
                self.result = value
            case {"kind": "failure", "text": str(text)}:
                self.failure = _encodable(text)
            case _:
                self._progress.note(f"unreadable message from a child process: {_encodable(line[:SHOWN])!r}")


def _encodable(text: str) -> str:
    """The text without half surrogates, which JSON can say and no log file can."""
    return text.encode("utf-8", "replace").decode()
