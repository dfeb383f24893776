"""What llama.cpp says while it works: it has one log for all models of a process."""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from validate.errors import RuntimeFailure
from validate.runtimes import _llama_api as api


class Log:
    """Collects the lines of llama.cpp's log, to quote it when a call fails."""

    active: ClassVar[Log | None] = None  # the one that llama.cpp writes into

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=200)  # but those for debugging: making a context writes a thousand
        self.warnings: deque[str] = deque(maxlen=5)
        self.errors: deque[str] = deque(maxlen=5)
        self.install()

    def install(self) -> None:
        """Make llama.cpp write into this; its server puts a log of its own in place."""
        lib = api.library()
        Log.active = self
        images = (lib.mtmd_helper_log_set, lib.mtmd_log_set) if api.shows_images() else ()
        for set_log in (lib.llama_log_set, *images):
            set_log(_ON_LOG, None)

    def add(self, level: int, text: bytes) -> None:
        """Take in what llama.cpp says."""
        line = text.decode(errors="replace").strip()
        if line and level != api.LOG_DEBUG:
            self.lines.append(line)
            if api.LOG_WARNING <= level < api.LOG_CONTINUED:
                (self.warnings if level == api.LOG_WARNING else self.errors).append(line)

    def taken(self) -> str:
        """The last errors, where there is none the last warnings; then forgets both."""
        said = "; ".join(self.errors or self.warnings)
        self.errors.clear()
        self.warnings.clear()
        return said

    def failure(self, what: str) -> RuntimeFailure:
        """An error that carries what is taken."""
        said = self.taken()
        return RuntimeFailure(f"llama.cpp {what}" + (f": {said}" if said else ""))


def _on_log(level: int, text: bytes, _: object) -> None:
    if Log.active is not None:
        Log.active.add(level, text)


_ON_LOG = api.LogCallback(_on_log)
"""What llama.cpp calls, for good: also when a session is gone, a callback of its own would be freed memory."""
