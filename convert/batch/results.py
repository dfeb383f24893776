"""What came of a model: a row for each output, as its report says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from convert.bundle import Bundle, Role
from convert.json_types import JsonDict, JsonObject

Status = Literal["passed", "missed", "failed", "made", "left out", "pending"]
"""passed: every output kept its limits; missed: one did not; made: nothing was validated; failed: see `problems`;
left out: its line is wrong, or nobody wanted it; pending: the batch ended before it."""

METRICS = ("kl_mean", "top1", "ppl_ratio")


@dataclass(frozen=True)
class Output:
    """One output of one model. What was not measured is None."""

    label: str
    stage: str
    path: str  # below the model's folder
    type: str
    size_bytes: int
    verdict: str  # passed, failed, not run; empty where nothing was validated
    reason: str
    runtime: str
    kl_mean: float | None = None
    kl_low: float | None = None
    kl_high: float | None = None
    top1: float | None = None
    ppl_ratio: float | None = None


@dataclass(frozen=True)
class ModelResult:
    """What came of one model and one recipe."""

    name: str  # the folder below OUT
    model: str  # a folder, or org/name@revision
    recipe: str
    where: str  # where it was asked for
    status: Status
    outputs: tuple[Output, ...] = ()
    problems: tuple[str, ...] = ()  # why it failed, or was left out
    failure: str = ""  # its kind: network, memory, killed, disk, busy, crash, broken
    step: str = ""  # that failed
    seconds: float = 0.0
    attempts: int = 0
    ran: tuple[str, ...] = ()  # steps; none where all was up to date
    report: str = ""  # report.html below OUT
    released: tuple[str, ...] = ()  # where it was published
    finished: str = ""  # when
    recipe_sha256: str = ""
    source_bytes: int = 0

    @property
    def reason(self) -> str:
        """Why it is not good, in a line; empty where it is."""
        if self.problems:
            return self.problems[0]
        return next((f"{o.label}: {o.reason}" for o in self.outputs if o.verdict not in ("", "passed")), "")

    @property
    def size_bytes(self) -> int:
        return sum(output.size_bytes for output in self.outputs)

    def to_json(self) -> JsonDict:
        """As JSON has it."""
        return asdict(self)


def from_json(words: JsonObject) -> ModelResult:
    """The result that `to_json` wrote. Raises TypeError or KeyError for words of another version."""
    lists = {name: tuple(words[name]) for name in ("problems", "ran", "released")}
    return ModelResult(**{**words, **lists, "outputs": tuple(Output(**output) for output in words["outputs"])})


def outputs_of(folder: Path, report: JsonObject | None, bundles: Mapping[str, Bundle]) -> list[JsonDict]:
    """A row for each output of a run: those of the report, or the files of weights that were made."""
    if report is not None:
        return [_measured(output) for output in report["outputs"]]
    return [
        asdict(Output(a.path.name, stage, str(a.path.relative_to(folder)), a.type, a.size, "", "", ""))
        for stage, bundle in bundles.items()
        for role in (Role.WEIGHTS, Role.PROJECTOR, Role.ADAPTER)
        for a in bundle.of(role)
        if a.path.is_relative_to(folder / stage)
    ]


def _measured(output: JsonObject) -> JsonDict:
    metrics, ends = output.get("metrics", {}), output.get("intervals", {}).get("kl_mean") or (None, None)
    row = Output(
        label=str(output.get("label") or Path(output["path"]).name),
        stage=str(output.get("stage", "")),
        path=str(output["path"]),
        type=str(output.get("type", "")),
        size_bytes=int(output["size_bytes"]),
        verdict=str(output["status"]).replace("_", " "),
        reason=str(output.get("reason", "")),
        runtime=str(output.get("runtime", "")),
        kl_low=ends[0],
        kl_high=ends[1],
        **{name: metrics.get(name) for name in METRICS},
    )
    return asdict(row)
