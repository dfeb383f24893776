"""Who makes a step now: an object that is created only where there is none, and beaten while its owner lives.

No clock of another machine is asked: a lease whose count does not move for STALE_SECONDS, as the one who waits sees it,
is nobody's. Then it is taken away, and created anew; where two do that at once, both may make the step, which costs
time and nothing else: they make the same bytes, and the first of them names them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path

from convert.json_types import JsonDict
from convert.progress import Progress
from convert.retry import reason
from convert.store.objects import Objects

BEAT_SECONDS = 10.0
STALE_SECONDS = 45.0
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Lease:
    """One step's lease, as one who wants to make it sees it."""

    def __init__(self, objects: Objects, name: str, progress: Progress) -> None:
        self._objects, self._name, self._progress = objects, name, progress
        self._mine: JsonDict = {"owner": secrets.token_hex(8), "beat": 0, **_here()}
        self._seen: tuple[bytes, float] | None = None
        self._stop = threading.Event()
        self._beats: threading.Thread | None = None

    def take(self) -> bool:
        """Whether the lease is ours now; it is beaten until it is released."""
        if not self._objects.create(self._name, self._text()) and not self._is_mine():
            found = self._objects.read(self._name)
            if found is not None and not self._is_stale(found):
                return False
            self._objects.remove(self._name)
            if not self._objects.create(self._name, self._text()):
                return False
        self._beats = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._beats.start()
        return True

    def release(self) -> None:
        """Let others have it."""
        self._stop.set()
        if self._beats is not None:
            self._beats.join()
            self._beats = None
            if self._is_mine():
                self._objects.remove(self._name)

    @property
    def holder(self) -> str:
        """Who had it when it was last looked at."""
        words = _words(self._seen[0]) if self._seen is not None else {}
        return f"{words.get('host', 'another machine')}, process {words.get('process', '?')}"

    def _is_mine(self) -> bool:
        found = self._objects.read(self._name)
        return found is not None and _words(found).get("owner") == self._mine["owner"]

    def _is_stale(self, found: bytes) -> bool:
        words, now = _words(found), time.monotonic()
        if self._seen is None or self._seen[0] != found:
            self._seen = found, now
        ours = _here()
        if ours["boot"] and words.get("boot") == ours["boot"] and words.get("host") == ours["host"]:
            return not Path(f"/proc/{words.get('process')}").exists()  # of this machine: it can be seen
        return now - self._seen[1] > STALE_SECONDS

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            self._mine["beat"] += 1
            try:
                self._objects.write(self._name, self._text())
            except Exception as error:  # another may take it, and do what we do
                self._progress.warn(f"the lease could not be renewed: {reason(error)}")

    def _text(self) -> bytes:
        return json.dumps(self._mine).encode()


def _here() -> JsonDict:
    try:
        boot = BOOT.read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return {"host": socket.gethostname(), "process": os.getpid(), "boot": boot}


def _words(found: bytes) -> JsonDict:
    try:
        words = json.loads(found)
    except ValueError:
        return {}
    return words if isinstance(words, dict) else {}
