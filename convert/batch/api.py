"""A batch: prepared from a request, then run. `convert batch` and `convert.batch(...)` are made of it."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.batch.driver import Driver, Settings
from convert.batch.jobs import Job, Jobs, jobs_of
from convert.batch.journal import Journal
from convert.batch.keeping import Keeper
from convert.batch.options import Keep, Limits
from convert.batch.pool import LocalPool, Pool
from convert.batch.request import Request
from convert.batch.results import ModelResult
from convert.batch.summary import write_summary
from convert.batch.task import pending
from convert.errors import PlanError, Problem, raise_all
from convert.events import Event, OnEvent
from convert.files import STATE_FOLDER
from convert.lock import hold

if TYPE_CHECKING:
    from convert.batch.courier import Courier

LOCAL = "local"
SUMMARY_SECONDS = 60.0  # how old the summary of a batch that runs may be


@dataclass(frozen=True)
class Batch:
    """A batch that can be run: its jobs, and what was wrong with others."""

    out: Path
    jobs: tuple[Job, ...]
    left_out: tuple[Problem, ...] = ()  # lines that are wrong, with `skip_bad`
    keep: Keep = "all"
    limits: Limits = field(default_factory=Limits)
    stop_after: int | None = None
    max_models: int | None = None
    engine: str = LOCAL  # or ray, auto, ray://HOST:PORT
    store: str = ""  # where steps are kept that machines share: a folder, s3://bucket/prefix …
    node_cache: int | None = None  # bytes of the store that a machine keeps
    only: str = ""  # failed, missed or pending: those that were so in the last batch
    earlier: tuple[ModelResult, ...] = field(default=(), repr=False)  # of jobs that are not run again

    @property
    def settings(self) -> Settings:
        return Settings(self.out, self.limits, self.stop_after, self.max_models)

    def run(self, on_event: OnEvent = lambda event: None) -> Iterator[ModelResult]:
        """The result of each model as it comes, in no order; at the end the summary is written.

        Leaving the loop ends what runs. Raises BusyError when another batch holds the output folder.
        """
        out, journal = self.out, Journal(self.out)
        try:
            (out / STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(Problem(str(out), f"cannot be made: {error.strerror}", "", "name another --out")) from error
        with hold(out):
            journal.folder.mkdir(parents=True, exist_ok=True)
            courier = self._courier()
            pool = self._pool(journal, on_event)
            keeper = Keeper(out, self.keep, not (pool.remote or self.store))
            driver = Driver(self.settings, self.jobs, pool, keeper, on_event, courier)
            shape = {"models": len(self.jobs), "out": str(out), "at_a_time": pool.models_at_a_time()}
            on_event(Event("batch", "", {**shape, "left_out": [str(problem) for problem in self.left_out]}))
            written = time.monotonic()
            try:
                for result in _in_a_thread(driver):
                    if time.monotonic() - written > SUMMARY_SECONDS:
                        write_summary(out, self._whole(driver.done), journal)
                        written = time.monotonic()
                    yield result
            finally:
                self._conclude(driver.done, journal, on_event)

    def _courier(self) -> Courier | None:
        """Who goes between this batch and its store. Raises PlanError where that may not be written to."""
        if not self.store:
            return None
        from convert.batch.courier import Courier

        courier = Courier(self.store, self.out, self.keep, self.node_cache)
        courier.store.objects.check()
        return courier

    def _pool(self, journal: Journal, on_event: OnEvent) -> Pool:
        """Where its processes come from. Raises PlanError where an engine cannot be reached."""
        folder = journal.folder / "workers"
        if self.engine == LOCAL:
            return LocalPool(folder, self.settings.budget(), self.settings.models_at_a_time)
        from convert.batch.ray_pool import RayPool

        return RayPool(self.engine, self.limits, len(self.jobs), on_event)

    def _conclude(self, done: Sequence[ModelResult], journal: Journal, on_event: OnEvent) -> None:
        """Write the table and the history: of all that is done, also what nobody waited for."""
        whole = self._whole(done)
        known = {**journal.results(), **{result.name: result for result in whole if result.name}}
        try:
            journal.compact(known.values())
            write_summary(self.out, whole, journal)
            journal.remember(done)
        except OSError as error:  # the models are there all the same
            text = f"{self.out}: the summary could not be written: {error.strerror}; the same command writes it again"
            on_event(Event("warning", "", {"text": text}))
        counts = Counter(result.status for result in whole)
        on_event(Event("batch_finished", "", {"counts": dict(counts), "exit_code": exit_code(whole)}))

    def _whole(self, done: Sequence[ModelResult]) -> list[ModelResult]:
        """A result for every line: those of this batch, of earlier ones, and of what nobody began or was wrong."""
        found = {result.name: result for result in done}
        known = {result.name: result for result in self.earlier}
        mine = [found.get(job.name) or known.pop(job.name, None) or pending(job) for job in self.jobs]
        others = [result for name, result in known.items() if name not in found]
        wrong = [_left_out(problem) for problem in self.left_out]
        return [*mine, *others, *wrong]


def prepare(
    request: Request, out: str | Path = "out", *, skip_bad: bool = False, only: str = "", keep: Keep | None = None
) -> Batch:
    """The batch of a request. Raises PlanError with every problem of every line, unless `skip_bad` leaves those out."""
    place = Path(out).absolute()
    found: Jobs = jobs_of(request, place)
    raise_all([*found.problems, *(() if skip_bad and found.jobs else found.bad)], PlanError)
    made = Batch(place, tuple(found.jobs), tuple(found.bad), keep or request.keep, request.limits)
    return _without_done(_narrowed(made, only))


def exit_code(results: Sequence[ModelResult]) -> int:
    """0 where all is good, 1 where some failed, 3 where only limits were missed."""
    statuses = {result.status for result in results}
    return 1 if "failed" in statuses else 3 if "missed" in statuses else 0


def _narrowed(made: Batch, only: str) -> Batch:
    """The batch with those jobs alone that were `only` in the last one."""
    if not only:
        return made
    last = Journal(made.out).results()
    was = {job.name: last[job.name].status if job.name in last else "pending" for job in made.jobs}
    jobs = tuple(job for job in made.jobs if was[job.name] == only)
    if not jobs:
        raise PlanError(
            Problem(str(made.out), f"no model of this batch is {only}", "", "leave --only out, or see `convert status`")
        )
    earlier = tuple(last[job.name] for job in made.jobs if job not in jobs and job.name in last)
    return replace(made, jobs=jobs, earlier=earlier, only=only)


def _without_done(made: Batch) -> Batch:
    """The batch without what was made by these very recipes and let go of."""
    keeper, last = Keeper(made.out, made.keep), Journal(made.out).results()
    done = {j.name for j in made.jobs if j.name in last and keeper.was_let_go(j.name, j.sha256)}
    jobs = tuple(job for job in made.jobs if job.name not in done)
    return replace(made, jobs=jobs, earlier=(*made.earlier, *(last[name] for name in sorted(done))))


def _left_out(problem: Problem) -> ModelResult:
    said = str(replace(problem, where="")).removeprefix(": ")
    return ModelResult(
        "", problem.where.partition(": ")[2], "", problem.where.partition(": ")[0], "left out", problems=(said,)
    )


def _in_a_thread(driver: Driver) -> Iterator[ModelResult]:
    """The driver's results, while its loop goes on whatever the caller does with them."""
    found: queue.SimpleQueue[ModelResult | BaseException | None] = queue.SimpleQueue()

    def loop() -> None:
        try:
            for result in driver.results():
                found.put(result)
            found.put(None)
        except BaseException as error:  # the caller's, who waits
            found.put(error)

    thread = threading.Thread(target=loop, name="batch", daemon=True)
    thread.start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        driver.stopped.set()
        thread.join()
