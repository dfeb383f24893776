"""Steps whose results a store keeps: what is there is brought, what is not is made here and published there.

One of all machines that want a step makes it, and the others wait for it; where its maker is gone, another does.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from convert import registry
from convert.bundle import MANIFEST_NAME, Artifact, Bundle, Manifest
from convert.execute import Task, execute
from convert.executors.base import Executor, Future
from convert.keys import sha256
from convert.progress import Progress
from convert.store.cache import file_sha256
from convert.store.leases import Lease
from convert.store.steps import Published, StepStore

LOOK_SECONDS, LONGEST_LOOK_SECONDS = 0.25, 5.0  # between looks at a step that another makes


class StoredFuture(Future):
    """A step that is brought, or made in this thread, as soon as its result is asked for."""

    def __init__(self, owner: StoredExecutor, task: Task, folder: Path, progress: Progress) -> None:
        self._owner, self._task, self._folder, self._progress = owner, task, folder, progress
        self._damaged = False

    def done(self) -> bool:
        return True

    def result(self) -> Bundle:
        store, key = self._owner.store, store_key(self._task)
        lease, wait = store.lease(key, self._progress), LOOK_SECONDS
        if not self._task.inputs:  # the source: its files are here already
            self._owner.made[self._task.name] = key, None, False
            return execute(self._task, self._folder, self._progress)
        while True:
            if (bundle := self._brought(key)) is not None:
                return bundle
            if lease.take():
                break
            self._progress.note(f"is made by {lease.holder}: waiting")
            self._owner.stopped.wait(wait)
            wait = min(LONGEST_LOOK_SECONDS, wait * 1.5)
        try:
            if not self._damaged and (bundle := self._brought(key)) is not None:  # its maker was just done
                lease.release()
                return bundle
            self._owner.made[self._task.name] = key, lease, self._damaged
            return execute(self._task, self._folder, self._progress)
        except BaseException:
            self._owner.made.pop(self._task.name, None)
            lease.release()
            raise

    def _brought(self, key: str) -> Bundle | None:
        """The step's bundle, from the store; None where it is not there, or is damaged."""
        found = None if self._damaged else self._owner.store.find(key)
        if found is None:
            return None
        bundle = _bundle(self._owner.store, found, self._task, self._folder, self._progress)
        if bundle is None:
            self._damaged = True
            shutil.rmtree(self._folder)
            self._folder.mkdir()
        return bundle


class StoredExecutor(Executor):
    """Runs one step at a time, in this thread, and shares what it makes."""

    NAME = "stored"

    def __init__(self, store: StepStore) -> None:
        super().__init__(1)
        self.store = store
        self.stopped = threading.Event()
        # step -> key, lease, whether what was there is damaged
        self.made: dict[str, tuple[str, Lease | None, bool]] = {}
        self.executed: list[str] = []  # steps that were made here
        self.keys: dict[str, str] = {}  # of all steps, as the store has them

    def has_room(self, task: Task) -> bool:
        return True

    def submit(self, task: Task, folder: Path, progress: Progress, *, alone: bool, wake: Callable[[], None]) -> Future:
        self.keys[task.name] = store_key(task)
        return StoredFuture(self, task, folder, progress)

    def published(self, name: str, folder: Path, bundle: Bundle) -> bool:
        if name not in self.made:
            return False
        key, lease, damaged = self.made.pop(name)
        try:
            known = {a.path: a.sha256 for _, a in bundle.artifacts()}
            is_new = self.store.publish(key, folder, known, anew=damaged)
        finally:
            if lease is not None:
                lease.release()
        if is_new or lease is not None:
            self.executed.append(name)
        return True

    def stop(self) -> None:
        self.stopped.set()
        for _, lease, _ in self.made.values():
            if lease is not None:
                lease.release()
        self.made.clear()


def store_key(task: Task) -> str:
    """The name of a step's result: its key, and for a report what it says of its recipe too."""
    return sha256([task.key, task.recipe_sha256]) if task.use == registry.VALIDATE else task.key


def _bundle(store: StepStore, found: Published, task: Task, folder: Path, progress: Progress) -> Bundle | None:
    """The bundle of a published step in `folder`; None where a file is damaged, or one that travels is not here."""
    if not store.bring(found, folder, progress):
        return None
    bundle = Manifest.read(folder).bundle
    (folder / MANIFEST_NAME).unlink()
    given = {(a.path.name, a.sha256): a.path for one in task.inputs.values() for _, a in one.artifacts()}
    wanted = {a.path.name for _, a in bundle.artifacts() if not a.path.is_relative_to(folder)}
    read = [path for path in registry.load(task.use).reads(task.options) if path.name in wanted]
    given |= {(path.name, file_sha256(path)): path.absolute() for path in read}
    try:
        return _placed(bundle, folder, given)
    except KeyError:
        return None


def _placed(bundle: Bundle, folder: Path, given: Mapping[tuple[str, str], Path]) -> Bundle:
    def place(artifact: Artifact) -> Artifact:
        if artifact.path.is_relative_to(folder):
            return artifact
        return replace(artifact, path=given[artifact.path.name, artifact.sha256])

    return replace(bundle, roles={role: tuple(map(place, files)) for role, files in bundle.roles.items()})
