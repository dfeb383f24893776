"""What an executor is: it takes steps whose inputs are there, and gives their bundles later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from convert.bundle import Bundle
from convert.execute import Task
from convert.progress import Progress


class Future(ABC):
    """A step that was submitted."""

    @abstractmethod
    def done(self) -> bool:
        """Whether `result` answers without waiting for another process."""

    @abstractmethod
    def result(self) -> Bundle:
        """What `execute` gave. Raises what it raised."""


class Executor(ABC):
    """Runs steps. `submit` is called in the order of the plan and only for what `has_room` says yes to."""

    NAME: ClassVar[str]

    def __init__(self, jobs: int | None) -> None:
        """For at most `jobs` steps at a time; None: as many as what they need allows."""
        self.jobs = jobs

    @abstractmethod
    def has_room(self, task: Task) -> bool:
        """Whether the step may start beside those that run."""

    @abstractmethod
    def submit(self, task: Task, folder: Path, progress: Progress, *, alone: bool, wake: Callable[[], None]) -> Future:
        """Start the step in `folder`. `alone`: nothing else can run meanwhile. `wake` is called when it is done.

        `progress` may be called from any thread.
        """

    def published(self, name: str, folder: Path, bundle: Bundle) -> bool:
        """The step of that name has its final folder; whether it was made here, and not brought from elsewhere."""
        return True

    @abstractmethod
    def stop(self) -> None:
        """End all that runs, and return when nothing of it writes any more."""
