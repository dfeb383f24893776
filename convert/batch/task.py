"""A job on its way: what it waits for, what it runs, and what it asked for."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from convert.batch.failures import Failure
from convert.batch.jobs import Job
from convert.batch.pool import Worker
from convert.batch.resources import Asked
from convert.batch.results import ModelResult, Output, Status
from convert.json_types import JsonDict, JsonObject


@dataclass
class Task:
    """One job, from its first attempt to its result."""

    job: Job
    attempt: int = 0
    not_before: float = 0.0
    alone: bool = False
    looked: bool = False  # whether it is here
    fetched: bool = True  # its source is on this machine
    we_fetched: bool = False  # by this batch
    worker: Worker | None = None
    node: str = ""  # where it was begun last
    began: float = 0.0  # its first attempt
    step: str = ""
    seen: JsonDict = field(default_factory=dict)  # the last progress of the step
    asked: Asked | None = None  # a step that waits
    held: Asked | None = None  # what the step that runs was given
    disk: int | None = None  # bytes that it waits for
    promised: int = 0  # bytes that it was given
    publishes: str = ""  # waits, or does
    result: ModelResult | None = None

    def on_event(self, kind: str, step: str, data: JsonObject) -> None:
        """Follow what the process says of itself."""
        if kind in ("step_started", "task"):
            self.step, self.seen = step, dict(data)
        elif kind == "progress":
            self.seen = dict(data)
        elif kind == "step_finished":
            self.seen = {}

    def released(self) -> None:
        """It holds nothing of the machine any more."""
        self.asked = self.held = self.disk = None
        self.promised, self.publishes = 0, ""
        self.worker = None

    def done(self, words: JsonObject, finished: str) -> ModelResult:
        """The result of an attempt that ended well."""
        status: Status = "made" if not words["validated"] else "passed" if words["passed"] else "missed"
        outputs = tuple(Output(**row) for row in words["outputs"])
        report = f"{self.job.name}/report.html" if words["validated"] else ""
        made = {"outputs": outputs, "ran": tuple(words["ran"]), "released": tuple(words["released"])}
        return self._result(status, finished, report=report, **made)

    def failed(self, failure: Failure, finished: str) -> ModelResult:
        """The result of one that will not be tried again."""
        return self._result("failed", finished, problems=failure.problems, failure=failure.kind, step=failure.step)

    def _result(self, status: Status, finished: str, **words: object) -> ModelResult:
        job = self.job
        given: JsonDict = {"seconds": round(time.monotonic() - self.began, 2), "attempts": self.attempt, **words}
        return ModelResult(
            *(job.name, job.model, job.recipe, job.where, status),
            **given,
            finished=finished,
            recipe_sha256=job.sha256,
            source_bytes=job.source_bytes,
        )

    def to_json(self) -> JsonDict:
        """What `convert status` shows of it."""
        waits = "memory and cores" if self.asked else "disk" if self.disk is not None else ""
        waits = "another to be published" if self.publishes == "waits" else waits
        words: JsonDict = {"name": self.job.name, "step": self.step, "attempt": self.attempt, "waits_for": waits}
        for word in ("what", "done", "total", "unit", "seconds"):
            if word in self.seen:
                words[word] = self.seen[word]
        return {**words, "took": round(time.monotonic() - self.began, 1)}


def pending(job: Job, status: Status = "pending", problems: tuple[str, ...] = ()) -> ModelResult:
    """The result of a job that nobody began."""
    return ModelResult(job.name, job.model, job.recipe, job.where, status, problems=problems)
