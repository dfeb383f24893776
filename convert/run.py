"""Plan -> Bundles: skip what is up to date, run the rest where the executor has room, publish each step in one rename.

out/<recipe>/<stage>/           what a step made, whole (publish.py says how)
out/<recipe>/logs/<stage>.log   what the step said, and the traceback when it failed
out/<recipe>/.convert/          the lock, and the memory of file hashes
"""

from __future__ import annotations

import contextlib
import errno
import queue
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from convert import plugins, timings
from convert.bundle import Artifact, Bundle
from convert.errors import ENDS, ConvertError, PlanError, Problem, RemoteError, StageError, raise_all
from convert.events import Event, OnEvent, StepProgress
from convert.execute import Task
from convert.executors.base import Executor, Future
from convert.files import STATE_FOLDER, recover_folder
from convert.formats.base import SOURCE
from convert.json_types import JsonDict, JsonObject
from convert.lock import hold
from convert.plan import plan
from convert.publish import partial_folder, publish, publish_report, retract_report
from convert.registry import VALIDATE
from convert.steps import Plan, Step

LOCAL = "local"
WAKE_SECONDS = 0.5  # between looks at what runs, where no event comes of it
FULL = ("the disk is full", "free some space or name another disk with --out, then run again")
DISK_ERRORS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,  # the user's share of it is
    errno.EFBIG: ("the file system takes no file as large as this", "name another disk with --out"),  # FAT32: 4 GiB
}


@dataclass(frozen=True)
class Result:
    """What a run left on disk. `report` is the content of report.json, None for a recipe that validates nothing."""

    folder: Path
    bundles: Mapping[str, Bundle]
    ran: tuple[str, ...]
    report: JsonObject | None

    @property
    def passed(self) -> bool:
        """Whether every validated output passed, those left out that this machine has no device or kernels for.

        An output whose runtime is not installed did not pass.
        """
        if self.report is None:
            return True
        outputs = self.report["outputs"]
        return bool(outputs) and all(output["status"] == "passed" or output.get("neutral", False) for output in outputs)

    @property
    def exit_code(self) -> int:
        return 0 if self.passed else 3


def run(
    planned: Plan, on_event: OnEvent = lambda event: None, *, jobs: int | None = 1, executor: str | Executor = LOCAL
) -> Result:
    """Build every step of the plan that is not up to date; `jobs` at a time, None: as many as fit the machine.

    `executor` is one, or the name of one.

    Raises PlanError when the plan has problems (nothing was started), BusyError when another run holds the output
    folder, StageError when a step fails; finished steps stay and the next run continues after them.
    """
    raise_all(planned.problems, PlanError)
    folder = planned.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STATE_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise PlanError(Problem(str(folder), f"cannot be made: {error.strerror}", "", "name another --out")) from error
    with hold(folder):
        for step in planned.steps:
            recover_folder(step.out)
        # What lies on disk may have changed between planning and holding the lock: the other run may have built it.
        planned = _replanned(planned, on_event)
        on_event(Event("plan", "", {"steps": [step.to_json() for step in planned.steps]}))
        for note in planned.notes:
            on_event(Event("note", "plan", {"text": note}))
        if not all(step.up_to_date for step in planned.steps):
            retract_report(folder)
        bundles = _Run(planned, on_event, _executor(executor, jobs)).all_steps()
        report = publish_report(folder, bundles)
    ran = tuple(step.name for step in planned.steps if not (step.up_to_date or step.left_out))
    return Result(folder, bundles, ran, report)


def executors() -> Mapping[str, str]:
    """Name -> where its EXECUTOR is, of every executor there is."""
    found = plugins.found("convert.executors", "EXECUTOR", "convert.executors", packages=False)
    return {name: place for name, place in found.items() if name not in ("base", "worker", "stored")}


def _executor(name: str | Executor, jobs: int | None) -> Executor:
    if isinstance(name, Executor):
        return name
    kind = cast(type[Executor], plugins.load(executors()[name]))
    return kind(jobs)


def _replanned(planned: Plan, on_event: OnEvent) -> Plan:
    """The plan of this moment; a checkpoint that is still on the hub is fetched first."""
    with StepProgress(SOURCE, on_event, planned.folder / "logs" / f"{SOURCE}.log") as progress:
        if planned.needs_download:
            for step in planned.steps:
                step.stage.fetch(step.spec.options, progress)
        out = planned.folder.parent
        now = plan(planned.recipe, out, force=planned.force, progress=progress, earlier=planned)
    raise_all(now.problems, PlanError)
    return now


@dataclass
class _Started:
    """A step that was handed to the executor."""

    step: Step
    inputs: Mapping[str, Bundle]
    progress: StepProgress
    since: float
    future: Future | None = None

    def abandon(self) -> None:
        """Clear what it has made so far, where the run ends before it does."""
        self.progress.log("stopped")
        self.progress.__exit__()
        shutil.rmtree(partial_folder(self.step), ignore_errors=True)


@dataclass
class _Run:
    """One run: what is done, what runs, what waits. Events of steps in other threads come through a queue."""

    planned: Plan
    on_event: OnEvent
    executor: Executor
    bundles: dict[str, Bundle] = field(default_factory=dict)
    running: list[_Started] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    events: queue.SimpleQueue[Event | None] = field(default_factory=queue.SimpleQueue)

    def all_steps(self) -> dict[str, Bundle]:
        """The bundle of every step. Raises the first error, after what ran beside it has ended."""
        waiting = list(self.planned.steps)
        try:
            while waiting or self.running:
                waiting = self._start(waiting)
                self._finish_some()
                if self.errors and not self.running:
                    break
        except BaseException:
            self.executor.stop()
            for started in self.running:
                started.abandon()
            raise
        if len(self.errors) > 1:
            problems = [p for e in self.errors for p in (e.problems if isinstance(e, ConvertError) else (str(e),))]
            raise ConvertError(*problems) from self.errors[0]
        if self.errors:
            raise self.errors[0]
        return self.bundles

    def _start(self, waiting: list[Step]) -> list[Step]:
        """Start or skip what can be; the steps that still wait."""
        for step in waiting:
            if any(name not in self.bundles for name in step.spec.inputs):
                continue
            if step.up_to_date and step.bundle is not None:
                self.on_event(Event("step_skipped", step.name, {"reason": step.reason}))
                self.bundles[step.name] = step.bundle
            elif step.left_out and step.bundle is not None:
                self.on_event(Event("warning", step.name, {"text": f"{step.name}: not validated: {step.left_out}"}))
                self.bundles[step.name] = step.bundle
            elif self.errors:
                continue  # the run will fail: only what runs is waited for
            else:
                others = [other for other in waiting if other is not step]
                if not self._submit(step, alone=not self.running and not self._independent(step, others)):
                    continue
            rest = [other for other in waiting if other is not step]
            return self._start(rest) if not self._inline() else rest
        return waiting

    def _inline(self) -> bool:
        """Whether the step that was just started runs in this thread: then it is finished before anything else."""
        return bool(self.running) and self.running[-1].future is not None and self.running[-1].future.done()

    def _independent(self, step: Step, others: list[Step]) -> bool:
        """Whether something that has to be run needs nothing of this step."""
        tainted = {step.name}
        for other in others:  # in an order that can be run
            if tainted.intersection(other.spec.inputs):
                tainted.add(other.name)
        return any(other.name not in tainted and not other.up_to_date and not other.left_out for other in others)

    def _submit(self, step: Step, *, alone: bool) -> bool:
        """Hand the step to the executor; False where it has no room."""
        planned = self.planned
        inputs = {name: self.bundles[name] for name in step.spec.inputs}
        if step.name == VALIDATE:
            inputs = {name: replace(bundle, remarks=planned.overlaps) for name, bundle in inputs.items()}
        task = Task(step.name, step.spec.use, step.spec.options, inputs, step.key, planned.recipe.sha256, step.needs)
        if not self.executor.has_room(task):
            return False
        direct = alone or self.executor.jobs == 1
        log = planned.folder / "logs" / f"{step.name}.log"
        self.on_event(Event("step_started", step.name, {"reason": step.reason, "write_bytes": step.write_bytes}))
        on_event = self.on_event if direct else self.events.put
        progress = StepProgress(step.name, on_event, log, step.key, planned.recipe.sha256)
        progress.note(f"stage {step.name}: {step.reason}")
        started = _Started(step, inputs, progress, time.monotonic())
        self.running.append(started)
        partial_folder(step).mkdir()
        started.future = self.executor.submit(
            task, partial_folder(step), progress, alone=alone, wake=lambda: self.events.put(None)
        )
        return True

    def _finish_some(self) -> None:
        """Publish what is done, or pass on what is said by what runs."""
        done = [started for started in self.running if started.future is not None and started.future.done()]
        if not done and self.running:
            self._pass_on(WAKE_SECONDS)
        for started in done:
            self._pass_on(0)  # what it said before it was done
            self.running.remove(started)
            try:
                self.bundles[started.step.name] = self._published(started)
            except Exception as error:
                self.errors.append(error)

    def _pass_on(self, seconds: float) -> None:
        with contextlib.suppress(queue.Empty):
            event = self.events.get(timeout=seconds) if seconds else self.events.get_nowait()
            while True:
                if event is not None:
                    self.on_event(event)
                event = self.events.get_nowait()

    def _published(self, started: _Started) -> Bundle:
        step, progress = started.step, started.progress
        assert started.future is not None
        with progress, _failing(step, progress):
            made = started.future.result()
            bundle = publish(self.planned, step, started.inputs, made, progress)
            made_here = self.executor.published(step.name, step.out, bundle)
        self._pass_on(0)
        seconds = round(time.monotonic() - started.since, 3)
        if made_here:
            timings.remember(step.spec.use, step.work, seconds)
        files = [_artifact_json(a) for _, a in bundle.artifacts() if a.path.is_relative_to(step.out)]
        self.on_event(Event("step_finished", step.name, {"seconds": seconds, "folder": str(step.out), "files": files}))
        return bundle


@contextlib.contextmanager
def _failing(step: Step, progress: StepProgress) -> Iterator[None]:
    """Whatever goes wrong inside becomes one StageError, and the half-built folder goes away."""
    partial = partial_folder(step)
    try:
        yield
    except BaseException as error:
        progress.trace(error)
        shutil.rmtree(partial, ignore_errors=True)
        where = f"stage '{step.name}'"
        if isinstance(error, PlanError):  # found only now, in what an earlier step made
            raise ConvertError(*error.problems) from error
        if isinstance(error, (ConvertError, *ENDS)):
            raise  # it says all there is to say; or Ctrl-C
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            got, remedy = DISK_ERRORS[error.errno]
            raise StageError(where, f"{got} ({partial.parent})", "", remedy) from error
        if isinstance(error, MemoryError):
            raise StageError(where, "out of memory", "", "run it on a machine with more") from error
        got = str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"
        raise StageError(where, got, "", f"the details are in {progress.path}") from error


def _artifact_json(artifact: Artifact) -> JsonDict:
    return {"kind": artifact.kind, "path": str(artifact.path), "size": artifact.size, "sha256": artifact.sha256}
