"""Between the one who hands out jobs and the store: sends what they read before they are begun, brings what they made.

Both in threads of its own. The steps' folders get their names in OUT as `convert run` gives them, each in one rename.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from convert.batch.failures import Failure, failure_of
from convert.batch.jobs import Job
from convert.batch.options import Keep
from convert.batch.results import ModelResult
from convert.batch.task import Task
from convert.batch.travel import send
from convert.bundle import MANIFEST_NAME, Manifest
from convert.files import STATE_FOLDER, beside, recover_folder, replace_folder, write_text
from convert.json_types import JsonDict, JsonObject
from convert.lock import hold
from convert.progress import Silent
from convert.publish import publish_report, retract_report
from convert.registry import VALIDATE
from convert.store.objects import Objects
from convert.store.steps import StepStore

CARRIED_AT_A_TIME = 2
LOGS = "logs"


class Courier:
    """Sends what jobs read before they are begun, and brings what they made; both in threads of its own."""

    def __init__(self, url: str, out: Path, keep: Keep, cache_bytes: int | None) -> None:
        self.out, self.keep = out, keep
        self.store = StepStore(Objects(url))
        self._told: dict[str, Future[JsonDict]] = {}
        self._collecting: dict[Future[None], tuple[Task, ModelResult]] = {}
        self._failed: list[tuple[Task, Failure]] = []
        self._damaged: set[str] = set()  # jobs whose results have to be looked at by who makes them
        self._words = {"store": url, "cache_bytes": cache_bytes}
        self._threads = ThreadPoolExecutor(CARRIED_AT_A_TIME, "courier")

    def ready(self, task: Task) -> bool:
        """Whether all that the job reads is in the store; what went wrong with that, `failed` tells."""
        name = task.job.name
        if name not in self._told:
            if sum(not future.done() for future in self._told.values()) >= CARRIED_AT_A_TIME:
                return False
            self._told[name] = self._threads.submit(self._send, task.job)
        future = self._told[name]
        if future.done() and (error := future.exception()) is not None:
            del self._told[name]
            self._failed.append((task, failure_of(error)))
            return False
        return future.done()

    def failed(self) -> list[tuple[Task, Failure]]:
        """Jobs that could not be sent since this was asked last."""
        failed, self._failed = self._failed, []
        return failed

    def words(self, job: Job) -> JsonDict:
        """What the node is told."""
        return {"told": {**self._words, **self._told[job.name].result(), "done": None}}

    def done(self, job: Job) -> JsonDict | None:
        """What came of the whole job, where it was done before and all of it is there."""
        found: JsonDict | None = self._told[job.name].result().get("done")
        return found

    def collect(self, task: Task, result: ModelResult, words: JsonObject) -> None:
        """Begin to bring what was made to its folder."""
        self._collecting[self._threads.submit(self._collect, task.job, words)] = task, result

    @property
    def is_busy(self) -> bool:
        return bool(self._collecting)

    def collected(self) -> Iterator[tuple[Task, ModelResult, Failure | None]]:
        """What was brought since this was asked last, and why it could not be."""
        for future in [future for future in self._collecting if future.done()]:
            task, result = self._collecting.pop(future)
            error = future.exception()
            self._told.pop(task.job.name, None)
            yield task, result, None if error is None else failure_of(error)

    def close(self) -> None:
        """End what is not begun; what is goes on until it is whole."""
        self._threads.shutdown(cancel_futures=True)

    def _send(self, job: Job) -> JsonDict:
        told = send(job, self.store)
        found = self.store.job(told["job"]) if told["job"] and job.name not in self._damaged else None
        if found is not None and all(self.store.find(key) for key in found["keys"].values()):
            told["done"] = {**found, "ran": []}
        return told

    def _collect(self, job: Job, words: JsonObject) -> None:
        """Each step's folder under its name. What is there already is not brought again."""
        folder = self.out / job.name
        (folder / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        with hold(folder):
            for name in words["logs"]:
                self._log(folder / LOGS / name, *words["logs"][name])
            bundles = {}
            for step, key in words["keys"].items():
                if self.keep == "report" and step != VALIDATE and words["validated"]:
                    continue
                recover_folder(folder / step)
                there = None if step == VALIDATE else _there(folder / step, key)  # a report's name is no key
                manifest = there or self._brought(folder, step, key, job.sha256)
                bundles[step] = manifest.bundle
            publish_report(folder, bundles)

    def _brought(self, folder: Path, step: str, key: str, recipe_sha256: str) -> Manifest:
        found = self.store.find(key)
        partial = beside(folder / step, ".partial")
        partial.mkdir()
        if found is None or not self.store.bring(found, partial, Silent()):
            shutil.rmtree(partial)
            self._damaged.add(folder.name)
            raise ConnectionError(f"{self.store.objects.url} has no whole result of {folder.name}/{step}: made again")
        manifest = replace(Manifest.read(partial), recipe_sha256=recipe_sha256)
        (partial / MANIFEST_NAME).unlink()
        write_text(partial / MANIFEST_NAME, manifest.to_json(partial))
        retract_report(folder)
        replace_folder(partial, folder / step)
        return Manifest.read(folder / step)

    def _log(self, path: Path, size: int, sha: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.store.bring_file(sha, size, path)


def _there(folder: Path, key: str) -> Manifest | None:
    """The manifest of a step that was brought before; None where it is not whole, by the sizes of its files."""
    try:
        found = Manifest.read(folder)
    except (OSError, ValueError):
        return None
    mine = [a for _, a in found.bundle.artifacts() if a.path.is_relative_to(folder)]
    whole = all(a.path.is_file() and a.path.stat().st_size == a.size for a in mine)
    return found if found.key == key and whole else None
