"""What got worse, or better, since an earlier batch: verdicts, and drift beyond its intervals.

A batch that did not measure a model says nothing of it: it is compared with the last one that did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from convert.batch.results import ModelResult, Output
from convert.json_types import JsonObject

ALIKE = 1.1  # KL within this ratio, where no interval is known
LARGER = 1.01  # sizes

BAD = ("failed", "missed")


@dataclass(frozen=True)
class Change:
    """One thing that is not as it was."""

    name: str  # the model's folder
    label: str  # the output; empty for the model as a whole
    what: str
    way: Literal["worse", "better", "new"]
    since: str  # when the batch ended that it is compared with


def changes(results: Sequence[ModelResult], history: Sequence[JsonObject]) -> list[Change]:
    """What changed, the worse first. `history` does not have this batch."""
    found: list[Change] = []
    for result in results:
        if result.status in ("pending", "left out"):
            continue
        before = next((b for b in reversed(history) if result.name in b["models"]), None)
        if before is None:
            if history:
                found.append(Change(result.name, "", "was not there before", "new", str(history[-1]["finished"])))
            continue
        found += _of_model(result, before["models"][result.name], str(before["finished"]))
    order = {"worse": 0, "better": 1, "new": 2}
    return sorted(found, key=lambda change: order[change.way])


def _of_model(result: ModelResult, before: JsonObject, since: str) -> list[Change]:
    found: list[Change] = []
    if (result.status == "failed") != (before["status"] == "failed"):
        failed = result.status == "failed"
        said = f"fails: {result.reason}" if failed else "does not fail any more"
        found.append(Change(result.name, "", said, "worse" if failed else "better", since))
    for output in result.outputs:
        was = before["outputs"].get(output.label)
        if was is None:
            continue
        found += [Change(result.name, output.label, said, way, since) for said, way in _of_output(output, was)]
    return found


def _of_output(now: Output, was: JsonObject) -> list[tuple[str, Literal["worse", "better"]]]:
    found: list[tuple[str, Literal["worse", "better"]]] = []
    if now.verdict != was["verdict"]:
        worse = was["verdict"] == "passed"
        if worse or now.verdict == "passed":
            found.append(
                (f"{was['verdict'] or 'not validated'} before, {now.verdict} now", "worse" if worse else "better")
            )
    if now.kl_mean is not None and was["kl_mean"] is not None:
        said = f"mean KL {was['kl_mean']:.3g} before, {now.kl_mean:.3g} now"
        if _beyond(now.kl_low, was["kl_high"], now.kl_mean, was["kl_mean"]):
            found.append((said, "worse"))
        elif _beyond(was["kl_low"], now.kl_high, was["kl_mean"], now.kl_mean):
            found.append((said, "better"))
    if was["size_bytes"] and now.size_bytes > LARGER * was["size_bytes"]:
        found.append((f"{was['size_bytes']} bytes before, {now.size_bytes} now", "worse"))
    return found


def _beyond(low: float | None, high: float | None, mean: float, other: float) -> bool:
    """Whether one drift is larger than another beyond what chance does."""
    if low is not None and high is not None:
        return low > high
    return mean > ALIKE * other
