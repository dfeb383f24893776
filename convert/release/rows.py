"""What a run has made, output by output, with what validation said of each; and which of them are published."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.errors import PlanError, Problem, raise_all
from convert.formats.base import SOURCE, Output
from convert.plan import plan
from convert.progress import Progress
from convert.recipe import Recipe
from convert.registry import VALIDATE
from convert.release_options import ALL, PASSED
from convert.steps import Plan
from convert.suggest import suggest
from convert.validation.outputs import outputs

if TYPE_CHECKING:
    from validate.report import Report
    from validate.report.schema import Output as Entry

UNMEASURED = "not measured"  # of an output that no report speaks of


@dataclass(frozen=True)
class Row:
    """An output, and what is known of it."""

    output: Output
    folder: Path  # of its stage
    bundle: Bundle
    entry: Entry | None = None  # of the report, on the runtime of its format
    status: str = UNMEASURED  # passed, failed, not_run: the worst of all runtimes that ran it
    reason: str = ""
    accepted: bool = False  # failed, and published all the same

    @property
    def name(self) -> str:
        return self.output.weights.path.name if self.output.named_by_file else self.output.label

    @property
    def names(self) -> tuple[str, ...]:
        """What a pattern of `which:` is held against."""
        weights = self.output.weights
        return (*self.output.names[1:], self.output.label, weights.path.name, weights.format)


@dataclass(frozen=True)
class Made:
    """A finished run of a recipe."""

    planned: Plan
    source: Bundle
    rows: tuple[Row, ...]
    report: Report | None

    @property
    def recipe(self) -> Recipe:
        return self.planned.recipe


def collect(recipe: Recipe, out: Path, progress: Progress) -> Made:
    """What lies in `out`/<recipe name>. Raises PlanError where it is not what the recipe would make."""
    planned = plan(recipe, out, progress=progress)
    raise_all(planned.problems)
    raise_all([problem for step in planned.steps if (problem := _unfinished(planned, step.name))])
    bundles = {step.name: step.bundle for step in planned.steps if step.bundle is not None}
    report = _report(bundles)
    made = {name: bundle for name, bundle in bundles.items() if name != VALIDATE}
    homes = {step.name: step.out for step in planned.steps}
    rows = [Row(one, homes[one.stage], made[one.stage]) for one in outputs(made)]
    if not rows:
        raise PlanError(
            Problem(str(recipe.path), "makes nothing that could be published", "a stage that makes a model")
        )
    return Made(planned, made[SOURCE], tuple(_measured(row, report, planned.folder) for row in rows), report)


def _unfinished(planned: Plan, name: str) -> Problem | None:
    step = next(step for step in planned.steps if step.name == name)
    if step.up_to_date:
        return None
    remedy = f"`convert run {planned.recipe.path}` first, with the same --out"
    return Problem(planned.recipe.where_stage(name), f"stage '{name}' is not finished: {step.reason}", "", remedy)


def _report(bundles: Mapping[str, Bundle]) -> Report | None:
    from convert.validation.read_report import read_report

    files = bundles[VALIDATE].of(Role.REPORT) if VALIDATE in bundles else ()
    found = next((artifact.path for artifact in files if artifact.kind == "json"), None)
    return None if found is None else read_report(found)


def _measured(row: Row, report: Report | None, home: Path) -> Row:
    """The row with its entries of the report: a file that fails on one runtime fails."""
    weights = row.output.weights
    found = [
        entry
        for entry in (report["outputs"] if report else ())
        if entry["stage"] == row.output.stage
        and entry["sha256"] == weights.sha256
        and Path(entry["path"]).name == weights.path.name
    ]
    del home
    if not found:
        return row
    worst = max(found, key=lambda entry: ("passed", "not_run", "failed").index(entry["status"]))
    if worst["status"] == "not_run" and found[0]["status"] == "passed":
        worst = found[0]  # that a second runtime is not here says nothing of the file
    return replace(row, entry=found[0], status=worst["status"], reason=worst["reason"])


def select(rows: Sequence[Row], which: str | Sequence[str], accepted: Collection[str]) -> tuple[Row, ...]:
    """The rows to publish, in their order.

    One that failed is never among them unless it was accepted by its name, whatever `which` says. Raises PlanError for
    a name that is none, for a pattern that fits nothing, and where nothing is left.
    """
    problems = [*_unknown(rows, accepted), *(_unfit(rows, which) if not isinstance(which, str) else ())]
    raise_all(problems)
    named = [replace(row, accepted=row.status == "failed" and row.name in accepted) for row in rows]
    chosen = tuple(row for row in named if row.accepted or (row.status != "failed" and _wanted(row, which)))
    if not chosen:
        counts = ", ".join(sorted({f"{row.name}: {row.status.replace('_', ' ')}" for row in rows}))
        remedy = "`which: all` takes what was not measured too; --accept-failed NAME one that failed"
        raise PlanError(Problem("release", f"nothing to publish ({counts})", "an output that passed", remedy))
    return chosen


def _wanted(row: Row, which: str | Sequence[str]) -> bool:
    if which == PASSED:
        return row.status == "passed"
    return which == ALL or any(fnmatch.fnmatchcase(name, pattern) for pattern in which for name in row.names)


def _unfit(rows: Sequence[Row], which: Sequence[str]) -> list[Problem]:
    names = {name for row in rows for name in row.names}
    return [
        Problem("which", f"'{pattern}' fits no output", "", suggest(pattern, names))
        for pattern in which
        if not fnmatch.filter(names, pattern)
    ]


def _unknown(rows: Sequence[Row], accepted: Collection[str]) -> list[Problem]:
    status = {row.name: row.status for row in rows}
    return [
        Problem("--accept-failed", f"there is no output '{name}'", "", suggest(name, status))
        if name not in status
        else Problem("--accept-failed", f"{name} {status[name].replace('_', ' ')}", "one that failed", "leave it out")
        for name in accepted
        if status.get(name) != "failed"
    ]
