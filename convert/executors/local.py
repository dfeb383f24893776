"""Steps on this machine: one at a time in this process, several at a time in a process each."""

from __future__ import annotations

import pickle
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from convert import child
from convert.bundle import Bundle
from convert.errors import StageError, from_json
from convert.execute import Task, execute
from convert.executors.base import Executor, Future
from convert.needs import this_machine
from convert.progress import Progress


class InThisProcess(Future):
    """A step that runs in this process as soon as its result is asked for."""

    def __init__(self, task: Task, folder: Path, progress: Progress) -> None:
        self._task, self._folder, self._progress = task, folder, progress

    def done(self) -> bool:
        return True

    def result(self) -> Bundle:
        return execute(self._task, self._folder, self._progress)


class InChildProcess(Future):
    """A step in a process of its own, and the thread here that listens to it."""

    def __init__(self, task: Task, folder: Path, progress: Progress, wake: Callable[[], None]) -> None:
        self.task = task
        self._folder, self._progress, self._wake = folder, progress, wake
        self._bundle: Bundle | None = None
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"step {task.name}", daemon=True)
        self._thread.start()

    def done(self) -> bool:
        return self._bundle is not None or self._error is not None  # set before `wake`, which asks

    def result(self) -> Bundle:
        self._thread.join()
        if self._error is not None:
            raise self._error
        assert self._bundle is not None
        return self._bundle

    def stop(self) -> None:
        """End the process, and wait until it is gone."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._bundle = self._ask()
        except BaseException as error:  # whoever asks for the result gets it
            self._error = error
        finally:
            self._wake()

    def _ask(self) -> Bundle:
        with tempfile.TemporaryDirectory(prefix="convert-step-") as name:
            request, answer = Path(name) / "task.pickle", Path(name) / "bundle.pickle"
            request.write_bytes(pickle.dumps((self.task, self._folder)))
            command = ["convert.executors.worker", str(request), str(answer)]
            ended = child.run(command, self._progress, on_line=self._printed, stop=self._stop)
            if ended.result is not None and "error" in ended.result:
                raise from_json(ended.result["error"])
            if ended.code or not answer.is_file():
                words = ended.failure or " ".join(ended.last)
                raise StageError(f"stage '{self.task.name}'", f"its process {ended.how}: {words[:400]}")
            bundle: Bundle = pickle.loads(answer.read_bytes())
            return bundle

    def _printed(self, line: str) -> None:
        self._progress.log(line)


class LocalExecutor(Executor):
    """As many steps at a time as what they need fits into what is free."""

    NAME = "local"

    def __init__(self, jobs: int | None) -> None:
        super().__init__(jobs)
        self._machine = this_machine()
        self._running: list[InChildProcess] = []

    def has_room(self, task: Task) -> bool:
        self._running = [future for future in self._running if not future.done()]
        if self.jobs is not None and len(self._running) >= self.jobs:
            return False
        return self._machine.fits(task.needs, [future.task.needs for future in self._running])

    def submit(self, task: Task, folder: Path, progress: Progress, *, alone: bool, wake: Callable[[], None]) -> Future:
        if self.jobs == 1 or alone:
            return InThisProcess(task, folder, progress)
        future = InChildProcess(task, folder, progress, wake)
        self._running.append(future)
        return future

    def stop(self) -> None:
        for future in self._running:
            future.stop()


EXECUTOR = LocalExecutor
