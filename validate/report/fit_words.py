"""What a page shows of how types were chosen for a size, as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from validate.report.schema import Report
from validate.report.schema_fit import FitEntry, FitMatrix
from validate.report.words import NOTHING, count, percent, scientific, scientific_range, size, visible

GRADIENTS = "gradients"
METHOD = (
    "The types of these files were chosen so that the sum of what each tensor's type costs is least in the bytes "
    "asked for. Candidates near that were compared on llama.cpp with rows that nothing was calibrated on, and the one "
    "that drifts least was kept."
)
GUESSED = (
    "Where types were not chosen by gradients, a cost is a share of what a matrix gives, no KL: "
    "costs of one file compare with each other alone."
)
DEAREST = 12  # tensors that are shown before the rest


@dataclass(frozen=True)
class MatrixRow:
    """A tensor and its type; `cost` as mean KL, or a share where that is not known."""

    name: str
    type: str
    size: str
    cost: str
    share: str


@dataclass(frozen=True)
class CandidateRow:
    """A mix that was tried."""

    why: str
    predicted: str
    measured: str
    interval: str
    chosen: bool


@dataclass(frozen=True)
class Fitted:
    """One output, by index."""

    index: int
    asked: str
    facts: str
    candidates: Sequence[CandidateRow]
    dearest: Sequence[MatrixRow]
    others: Sequence[MatrixRow]


def fitted(report: Report) -> list[Fitted]:
    """The outputs whose types were chosen."""
    return [_fitted(i, entry) for i, output in enumerate(report["outputs"]) if (entry := output.get("fit"))]


def guessed(report: Report) -> bool:
    """Whether some of them were chosen without gradients."""
    return any(entry["by"] != GRADIENTS for output in report["outputs"] if (entry := output.get("fit")))


def predictions(report: Report) -> list[tuple[str, float, float, bool]]:
    """(what, predicted KL, measured KL, whether it was chosen) of all candidates that gradients speak of."""
    found = []
    for output in report["outputs"]:
        entry = output.get("fit")
        if entry and entry["by"] == GRADIENTS:
            for one in entry["candidates"]:
                if one["measured"] and one["predicted"] > 0 and one["measured"]["kl"] > 0:
                    what = f"{visible(output['label'])}: {visible(one['why'])}"
                    found.append((what, one["predicted"], one["measured"]["kl"], one["why"] == entry["why"]))
    return found


def _fitted(index: int, entry: FitEntry) -> Fitted:
    rows = sorted(entry["matrices"], key=lambda row: -row["cost"])
    facts = f"{count(entry['bytes'])} bytes; {count(entry['budget'])} were asked for"
    return Fitted(
        index,
        visible(entry["asked"]),
        f"{facts}; by {visible(entry['by'])}",
        [_candidate(entry, number) for number in range(len(entry["candidates"]))],
        [_matrix(row) for row in rows[:DEAREST]],
        [_matrix(row) for row in rows[DEAREST:]],
    )


def _candidate(entry: FitEntry, number: int) -> CandidateRow:
    one = entry["candidates"][number]
    measured = one["measured"]
    return CandidateRow(
        visible(one["why"]),
        scientific(one["predicted"]),
        scientific(measured["kl"]) if measured else NOTHING,
        scientific_range(measured["low"], measured["high"]) if measured else "",
        one["why"] == entry["why"],
    )


def _matrix(row: FitMatrix) -> MatrixRow:
    return MatrixRow(
        visible(row["name"]),
        visible(row["type"]),
        size(row["bytes"]),
        scientific(row["cost"]),
        f"{percent(row['share'], 1)} %",
    )
