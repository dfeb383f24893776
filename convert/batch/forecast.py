"""`convert batch --dry-run`: what every model would take, planned side by side in processes; nothing is built.

The disk at its peak: what stays of all models, beside the most that those at a time have beside it. A model that is
still on the hub cannot be planned: of it the download's size is known, where the hub tells it.
"""

from __future__ import annotations

import selectors
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from heapq import nlargest

from convert.batch.api import Batch
from convert.batch.jobs import Job
from convert.batch.journal import folder_of
from convert.batch.pool import LocalWorker, Worker
from convert.json_types import JsonDict, JsonObject
from convert.source import hub


@dataclass(frozen=True)
class Forecast:
    """What one model would take."""

    name: str
    model: str
    recipe: str
    steps: int  # that would run
    write_bytes: int
    peak_bytes: int  # while it runs
    memory_bytes: int  # of the step that takes most
    seconds: float | None  # by earlier runs on this machine; None where a step was never run
    download_bytes: int | None  # None: nothing is downloaded
    problems: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """What a run would do about it."""
        if self.problems:
            return "cannot run"
        return "download" if self.download_bytes is not None else "run" if self.steps else "done"


@dataclass(frozen=True)
class Total:
    """What all of them would take."""

    write_bytes: int
    peak_bytes: int
    memory_bytes: int  # of the largest step
    budget_bytes: int | None  # that all steps may take at a time
    seconds: float | None
    unknown: int  # models whose time nobody knows
    download_bytes: int


def forecasts(made: Batch) -> Iterator[Forecast]:
    """The forecast of every job, in no order."""
    waiting, workers = list(made.jobs), dict[int, tuple[Worker, Job]]()
    folder, room = folder_of(made.out) / "workers", made.settings.room(made.settings.budget())
    with selectors.DefaultSelector() as selector:
        idle: list[Worker] = [
            LocalWorker(folder / f"plan-{i}.log") for i in range(min(made.settings.models_at_a_time, len(waiting)))
        ]
        try:
            while waiting or workers:
                while waiting and idle:
                    worker, job = idle.pop(), waiting.pop(0)
                    job.write()
                    selector.register(worker.socket, selectors.EVENT_READ, worker)
                    workers[id(worker)] = worker, job
                    worker.start(job.name, {"task": "plan", "recipe": str(job.path), "out": str(made.out), **room})
                for key, _ in selector.select(1):
                    worker, job = workers[id(key.data)]
                    for found, alive in _heard(worker, job):
                        selector.unregister(worker.socket)
                        del workers[id(worker)]
                        idle.append(worker if alive else LocalWorker(folder / f"again-{job.name}.log"))
                        yield found
                        break
        finally:
            for worker in [*idle, *(worker for worker, _ in workers.values())]:
                worker.end()


def _heard(worker: Worker, job: Job) -> Iterator[tuple[Forecast, bool]]:
    """The forecast, as soon as the process has said it or has died of it."""
    for message in worker.hear():
        if message is None:
            yield _failed(job, worker.death("").problems), False
        elif message["kind"] == "failed":
            yield _failed(job, tuple(message["failure"]["problems"])), True
        elif message["kind"] == "done":
            yield _forecast(job, message["result"]), True


def _failed(job: Job, problems: tuple[str, ...]) -> Forecast:
    return Forecast(job.name, job.model, job.recipe, 0, 0, 0, 0, None, None, problems)


def _forecast(job: Job, words: JsonObject) -> Forecast:
    todo = [step for step in words["steps"] if step["run"]]
    seconds = [step["seconds"] for step in todo]
    known = None if None in seconds else sum(seconds)
    sizes = words["write_bytes"], words["peak_bytes"], words["memory_bytes"]
    download = hub.download_bytes(job.hub, job.revision or hub.DEFAULT_REVISION) if words["download"] else None
    return Forecast(
        job.name, job.model, job.recipe, len(todo), *sizes, known, download, problems=tuple(words["problems"])
    )


def total(made: Batch, found: Sequence[Forecast]) -> Total:
    """What they take together."""
    at_a_time, downloads = made.settings.models_at_a_time, {f.model: f.download_bytes or 0 for f in found}
    written = sum(f.write_bytes for f in found)
    beside = nlargest(at_a_time, (f.peak_bytes - f.write_bytes for f in found))
    largest = nlargest(at_a_time, (f.peak_bytes for f in found))
    peak = sum(largest) if made.keep == "report" else written + sum(beside)
    ahead = at_a_time + made.limits.downloads
    sources = sum(downloads.values()) if made.keep == "all" else sum(nlargest(ahead, downloads.values()))
    seconds = [f.seconds for f in found if f.state in ("run", "done") and f.seconds is not None]
    unknown = sum(1 for f in found if f.state == "download" or (f.state == "run" and f.seconds is None))
    return Total(
        written,
        peak + sources,
        max((f.memory_bytes for f in found), default=0),
        made.settings.budget().machine.memory_bytes,
        sum(seconds) / at_a_time if seconds else None,
        unknown,
        sum(downloads.values()),
    )


def to_json(made: Batch, found: Sequence[Forecast]) -> JsonDict:
    """All of it, for scripts."""
    models = [{**asdict(f), "state": f.state} for f in found]
    left_out = [str(problem) for problem in made.left_out]
    return {"out": str(made.out), "models": models, "total": asdict(total(made, found)), "left_out": left_out}
