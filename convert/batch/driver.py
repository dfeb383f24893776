"""Runs the jobs of a batch: hands them to processes, gives steps their turn, tries again what may pass by itself.

One loop in one thread; nothing heavy is imported here. All that a model's conversion does happens in a process of the
pool, so that none can take another, or the batch, down with it.
"""

from __future__ import annotations

import os
import selectors
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.batch.failures import FULL, Failure, failure_of
from convert.batch.jobs import Job
from convert.batch.journal import Journal, moment
from convert.batch.keeping import Keeper
from convert.batch.options import Limits
from convert.batch.pool import STOP_SECONDS, Pool, Worker
from convert.batch.resources import Asked, Budget
from convert.batch.results import ModelResult
from convert.batch.task import Task
from convert.batch.turns import Turns
from convert.events import Event, OnEvent
from convert.json_types import JsonDict, JsonObject
from convert.needs import GB, Machine, Needs, this_machine
from convert.source import hub
from convert.steps import existing_folder

if TYPE_CHECKING:
    from convert.batch.courier import Courier

WAKE_SECONDS = 0.2
RECYCLE_BYTES = 3 * GB  # a process that holds more when it is idle is ended
AHEAD = 2  # models that are downloaded before there is somebody to convert them


@dataclass(frozen=True)
class Settings:
    """How a batch goes about it."""

    out: Path
    limits: Limits
    stop_after: int | None = None  # failures
    max_models: int | None = None  # that something is built for

    def budget(self) -> Budget:
        """What steps may take in all."""
        here = this_machine()
        memory = self.limits.memory or here.memory_bytes
        return Budget(Machine(self.limits.cores or here.cores, memory), self.limits.accelerators)

    def room(self, budget: Budget) -> JsonDict:
        """The most that one step may take of the memory, and one model of the disk."""
        disk = shutil.disk_usage(existing_folder(self.out)).total
        return {"memory": budget.machine.memory_bytes, "disk": min(disk, self.limits.disk or disk)}

    @property
    def models_at_a_time(self) -> int:
        return self.limits.jobs or self.budget().machine.cores


class Driver:
    """One batch while it runs. `results` gives each model's as it comes; `stopped` ends it from another thread."""

    def __init__(  # noqa: PLR0913, PLR0917 - all it works with
        self,
        settings: Settings,
        jobs: Sequence[Job],
        pool: Pool,
        keeper: Keeper,
        on_event: OnEvent,
        courier: Courier | None = None,
    ) -> None:
        self.settings, self.pool, self.keeper, self.on_event = settings, pool, keeper, on_event
        self.courier = courier  # where a store keeps what is made
        self.journal = Journal(settings.out)
        self.stopped = threading.Event()
        self.done: list[ModelResult] = []
        self._queue = [Task(job, fetched=pool.remote or courier is not None or not job.hub) for job in jobs]
        self._tasks = tuple(self._queue)
        self._to_fetch = sum(not task.fetched for task in self._tasks)
        self._of_model: dict[str, list[Task]] = {}
        for task in self._tasks:
            self._of_model.setdefault(task.job.model, []).append(task)
        self._busy: list[Task] = []
        self._failures = self._built = 0
        self._jobs = pool.models_at_a_time()
        self._turns = Turns(settings.out, pool.budgets(), settings.limits.disk, on_event)
        self._workers: list[Worker] = []
        self._selector = selectors.DefaultSelector()
        self._since = moment()

    def results(self) -> Iterator[ModelResult]:
        """Every job's result as soon as it is known, until all are done, enough failed, or it is told to stop."""
        try:
            while not self.stopped.is_set():
                if not self._enough():
                    self._begin()
                elif not self._busy and not self._carries:
                    break
                if not self._busy and not self._queue and not self._carries:
                    break
                self._turns.give(self._busy, self._workers)
                yield from self._listen()
                yield from self._carried()
                self.journal.tell(self.state())
            self._stop()
        finally:
            for worker in self._workers:
                worker.end()
            self.pool.close()
            if self.courier is not None:
                self.courier.close()
            self._selector.close()
            self.journal.tell(self.state(ended=True), now=True)

    def _enough(self) -> bool:
        """Whether so many have failed, or were built, that no other is to be started."""
        stop_after, most = self.settings.stop_after, self.settings.max_models
        if stop_after is not None and self._failures >= stop_after:
            return True
        return most is not None and self._built + len(self._busy) >= most

    def _is_full(self) -> bool:
        """Whether there is no place for whatever waits."""
        running = sum(task.fetched for task in self._busy)
        fetching = len(self._busy) - running
        return running >= self._jobs and (not self._to_fetch or fetching >= self.settings.limits.downloads)

    def _begin(self) -> None:
        """Start what can be."""
        now = time.monotonic()
        for task in list(self._queue):
            if self._is_full() or self._enough():
                return
            self._look(task)
            may = self._may_run(task) if task.fetched else self._may_fetch(task)
            if not may or task.not_before > now:
                continue
            try:
                if self.courier is None or self._is_sent(task, self.courier):
                    self._start(task, "run" if task.fetched else "fetch")
            except OSError as error:  # its recipe, or a process's log, could not be written
                if error.errno not in FULL:
                    raise
                self._release(task)
                self._failed(task, failure_of(error))
                return

    def _is_sent(self, task: Task, courier: Courier) -> bool:
        """Whether a process can begin with it; what was done before is brought, and no process asked."""
        if not courier.ready(task):
            return False
        found = courier.done(task.job)
        if found is not None:
            self._queue.remove(task)
            task.began = time.monotonic()
            courier.collect(task, task.done(found, moment()), found)
        return found is None

    @property
    def _carries(self) -> bool:
        return self.courier is not None and self.courier.is_busy

    def _carried(self) -> Iterator[ModelResult]:
        """The results of jobs whose outputs have come, and of those that could not be sent."""
        if self.courier is None:
            return
        for task, failure in self.courier.failed():
            self._queue.remove(task)
            task.began, task.attempt = task.began or time.monotonic(), task.attempt + 1
            if (failed := self._failed(task, failure)) is not None:
                yield failed
        for task, result, why in self.courier.collected():
            found = self._finished(task, result) if why is None else self._failed(task, why)
            if found is not None:
                yield found

    def _look(self, task: Task) -> None:
        """Look once whether a model of the hub is on this machine."""
        if not task.fetched and not task.looked:
            task.looked = True
            task.fetched = hub.cached(task.job.hub, task.job.revision or hub.DEFAULT_REVISION) is not None
            self._to_fetch -= task.fetched

    def _may_run(self, task: Task) -> bool:
        """Whether there is a place for it; a model's first recipe goes alone, and leaves what all of it share."""
        running = [other for other in self._busy if other.fetched]
        if len(running) >= self._jobs or any(other.alone for other in running) or (task.alone and running):
            return False
        same = self._of_model[task.job.model]
        return any(other.result for other in same) or not any(other in running for other in same)

    def _may_fetch(self, task: Task) -> bool:
        fetching = [other for other in self._busy if not other.fetched]
        if len(fetching) >= self.settings.limits.downloads or any(
            other.job.model == task.job.model for other in fetching
        ):
            return False
        return sum(other.we_fetched for other in self._queue) < AHEAD

    def _start(self, task: Task, what: str) -> None:
        """Hand a job to a process that has none; where there is none it waits."""
        worker = self._idle(task) or self._new_worker()
        if worker is None:
            return
        task.attempt += 1
        task.began = task.began or time.monotonic()
        self._queue.remove(task)
        self._busy.append(task)
        task.job.write()
        task.worker, task.node, task.step, task.seen = worker, worker.node, "", {}
        out, same = self.settings.out, [t for t in self._of_model[task.job.model] if t.result]
        words = {"recipe": str(task.job.path), "out": str(out), **self.settings.room(self._turns.budgets[worker.node])}
        if self.courier is not None:
            words |= self.courier.words(task.job)
        self._say("model_started", task, what=what, attempt=task.attempt)
        worker.start(task.job.name, {"task": what, **words, "beside": [str(out / t.job.name) for t in same]})

    def _idle(self, task: Task) -> Worker | None:
        """A process that has nothing to do, where there is one on a node that has the model already."""
        nodes = {other.node for other in self._of_model[task.job.model] if other.attempt}
        idle = [worker for worker in self._workers if not worker.job]
        return next((worker for worker in idle if worker.node in nodes), idle[0] if idle else None)

    def _new_worker(self) -> Worker | None:
        worker = self.pool.new()
        if worker is None:
            return None
        self._workers.append(worker)
        self._selector.register(worker.socket, selectors.EVENT_READ, worker)
        return worker

    # ---- what processes say

    def _listen(self) -> Iterator[ModelResult]:
        for key, _ in self._selector.select(WAKE_SECONDS):
            worker: Worker = key.data
            for message in worker.hear():
                if (result := self._take(worker, message)) is not None:
                    yield result

    def _take(self, worker: Worker, message: JsonDict | None) -> ModelResult | None:
        task = next((t for t in self._busy if t.worker is worker), None)
        if message is None:
            return self._dead(worker, task)
        if task is None:
            return None
        match message["kind"]:
            case "event":
                task.on_event(message["event"], message["step"], message["data"])
                self.on_event(Event(message["event"], message["step"], {**message["data"], "model": task.job.name}))
            case "step":
                task.step = message["step"]
                task.asked = _asked(worker, task, Needs(**message["needs"]))
            case "step over":
                task.held = None
            case "release":
                task.step, task.seen, task.publishes = "release", {}, "waits"
            case "released":
                task.publishes = ""
            case "disk":
                task.disk = message["bytes"]
            case "done" | "failed":
                return self._ended(worker, task, message)
        return None

    def _ended(self, worker: Worker, task: Task, message: JsonObject) -> ModelResult | None:
        """A process has ended its task, and takes the next."""
        worker.job, worker.memory_bytes = "", message["memory"]
        self._release(task)
        last = not self._queue and task.fetched and message["kind"] == "done"
        if worker.memory_bytes > RECYCLE_BYTES or message.get("recycle") or last:
            self._drop(worker)  # nobody waits for it, and others may want the memory
        if message["kind"] == "failed":
            return self._failed(task, _failure(message["failure"]))
        if not task.fetched:
            task.fetched = task.we_fetched = True
            task.attempt = 0
            for other in self._of_model[task.job.model]:
                self._to_fetch -= not other.fetched or other is task
                other.fetched = True
            self._queue.insert(0, task)
            return None
        result = task.done(message["result"], moment())
        if self.courier is not None:
            self.courier.collect(task, result, message["result"])
            return None
        return self._finished(task, result)

    def _dead(self, worker: Worker, task: Task | None) -> ModelResult | None:
        """A process is gone: with it the model that it was at, and no other."""
        self._forget(worker)
        failure = worker.death(task.step if task is not None else "")
        if task is None:
            return None
        self._clear(task.job)
        self._release(task)
        return self._failed(task, failure)

    def _drop(self, worker: Worker) -> None:
        self._forget(worker)
        worker.end()

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.socket)
        self._workers.remove(worker)

    def _release(self, task: Task) -> None:
        task.released()
        self._busy.remove(task)

    def _clear(self, job: Job) -> None:
        """Nothing half-made stays of a process that could not clear it itself."""
        for partial in (self.settings.out / job.name).glob("*.partial"):
            shutil.rmtree(partial, ignore_errors=True)

    def _failed(self, task: Task, failure: Failure) -> ModelResult | None:
        if not failure.again(task.attempt, self.settings.limits.retries):
            return self._finished(task, task.failed(failure, moment()))
        pause = failure.pause(task.attempt)
        task.not_before, task.alone = time.monotonic() + pause, failure.alone
        self._queue.append(task)
        said = {"problems": list(failure.problems), "failure": failure.kind, "wait": round(pause, 1)}
        self._say("model_retried", task, **said)
        return None

    def _finished(self, task: Task, result: ModelResult) -> ModelResult:
        task.result = result
        self.done.append(result)
        self._failures += result.status == "failed"
        self._built += bool(result.ran) or result.status == "failed"
        self._to_fetch -= not task.fetched
        self.journal.keep(result)
        self._say("model_finished", task, **result.to_json())
        for text in self.keeper.let_go(task, self._of_model[task.job.model]):
            self.on_event(Event("note", "", {"text": text, "model": task.job.name}))
        return result

    def _say(self, kind: str, task: Task, /, **data: object) -> None:
        self.on_event(Event(kind, "", {**data, "model": task.job.name, "source": task.job.model}))

    # ---- the end

    def _stop(self) -> None:
        """End what runs; every step clears what it has begun."""
        busy = [worker for worker in self._workers if worker.job]
        for worker in busy:
            worker.interrupt()
        until = time.monotonic() + STOP_SECONDS
        for worker in busy:
            self._forget(worker)
            worker.end(until)
        for task in list(self._busy):
            self._clear(task.job)
            self._release(task)

    def state(self, *, ended: bool = False) -> JsonDict:
        """How far it is, for `convert status`."""
        counts = Counter(result.status for result in self.done)
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
            "ended": ended,
            "models": len(self._tasks),
            "counts": dict(counts),
            "running": [task.to_json() for task in self._busy],
            "retrying": [task.job.name for task in self._queue if task.attempt],
            "paused": self._turns.paused,
            "left_seconds": self._left(),
        }

    def _left(self) -> float | None:
        """How long the others will take, if they take what those took that were built."""
        took = [result.seconds for result in self.done if result.ran]
        left = len(self._queue) + len(self._busy)
        return round(sum(took) / len(took) * left / min(self._jobs, left), 1) if took and left else None


def _asked(worker: Worker, task: Task, needs: Needs) -> Asked:
    """What a step takes in the process that it will run in, which holds something already."""
    held = worker.memory_bytes
    whole = replace(needs, memory_bytes=max(needs.memory_bytes, held))
    return Asked(task.job.name, whole, time.monotonic(), task.alone, held)


def _failure(words: Mapping[str, object]) -> Failure:
    given: JsonDict = dict(words)
    return Failure(**{**given, "problems": tuple(given["problems"])})
