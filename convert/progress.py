"""How a stage reports its progress, without knowing who shows it. A leaf."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Given to every stage; the command line, a script's `--json` reader and the step's log file sit behind it."""

    key: str  # of the step, for outputs that say what they were made by; empty outside of a run
    recipe_sha256: str  # of the recipe's text, for reports; empty outside of a run

    def start(self, what: str, total: int, unit: str = "B") -> None:
        """A long task begins: `what` in a few words, `total` in `unit` ("B" shows bytes per second)."""

    def advance(self, amount: int) -> None:
        """`amount` more units of the running task are done."""

    def note(self, text: str) -> None:
        """One line worth keeping: it goes into the step's log, and to the screen with -v."""

    def warn(self, text: str) -> None:
        """One line the user should see: log, screen, and event stream."""

    def log(self, text: str) -> None:
        """One line for the step's log alone."""


class Silent:
    """A Progress that emits nothing; for tests and the Python API."""

    key = ""
    recipe_sha256 = ""

    def start(self, what: str, total: int, unit: str = "B") -> None: ...
    def advance(self, amount: int) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def log(self, text: str) -> None: ...
