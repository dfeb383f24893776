"""Two reports -> what changed between them, and what of it is more than noise.

Both were measured on the same text, or are refused: window is compared with window, so that what makes a text hard
cancels; where there are too few, by confidence intervals. A number that has neither is shown, and judged by its limit
alone. Speed is only shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import cast

from validate import statistics
from validate.metrics import CONTRACT_LIMITS, DEFINITIONS, Better, resampled
from validate.report.same_texts import check_same_texts
from validate.report.schema import Output, Report

# The sums over windows by which a metric is compared pair by pair, and what a difference of their means is to it.
PAIRED: Mapping[str, str] = {"kl_mean": "kl", "top1": "top1", "ppl_ratio": "nll"}

# A paired test finds differences that matter to nobody: of two builds of one library, say. Of a metric that is lower
# for the better, what is below both a hundredth of it and this; of a share, what is below this.
SMALL_SHARE = 0.01
SMALL: Mapping[str, float] = {"ppl_ratio": 1e-4, "ppl_change": 1e-4, "click_distance": 0.5}
SMALL_KL, SMALL_ELSE = 1e-6, 5e-4


class Kind(StrEnum):
    """What a change means."""

    WORSE = "worse"
    BETTER = "better"
    NOISE = "within noise"
    UNJUDGED = "changed"  # no noise is known of it


@dataclass(frozen=True)
class MetricChange:
    """A metric that is not what it was. `low` and `high`: 95 % interval of the difference, where one is known."""

    name: str
    before: float | None
    after: float | None
    kind: Kind
    low: float | None = None
    high: float | None = None
    paired: bool = False


@dataclass(frozen=True)
class OutputChange:
    """An output that both reports have."""

    label: str
    before: str  # passed, failed, not_run
    after: str
    verdict: Kind
    reason: str  # why it did not pass, after
    files: tuple[str, ...]  # names of files whose content changed
    metrics: tuple[MetricChange, ...]
    speed: tuple[MetricChange, ...]

    @property
    def worse(self) -> bool:
        return self.verdict is Kind.WORSE or any(m.kind is Kind.WORSE for m in self.metrics)

    @property
    def better(self) -> bool:
        return not self.worse and (self.verdict is Kind.BETTER or any(m.kind is Kind.BETTER for m in self.metrics))


@dataclass(frozen=True)
class Changes:
    """Everything that is not as it was. `conditions`: what was measured with, on and against; what, before, after."""

    before: str
    after: str
    outputs: tuple[OutputChange, ...]
    new: tuple[str, ...]
    gone: tuple[str, ...]
    conditions: tuple[tuple[str, str, str], ...]

    @property
    def worse(self) -> bool:
        """Whether an output got worse beyond noise, or lost its verdict."""
        return any(output.worse for output in self.outputs)


def compare(before: Report, after: Report) -> Changes:
    """What is different in `after`. Outputs are the same that have the same label.

    Raises OtherTexts for reports that were not measured on the same text.
    """
    check_same_texts(before, after)
    old = {output["label"]: output for output in before["outputs"]}
    new = {output["label"]: output for output in after["outputs"]}
    same_reference = _hashes(before) == _hashes(after)
    same_items = _items(before) == _items(after)
    return Changes(
        before["recipe"],
        after["recipe"],
        tuple(_output(old[label], new[label], same_reference, same_items) for label in old if label in new),
        tuple(label for label in new if label not in old),
        tuple(label for label in old if label not in new),
        tuple(_conditions(before, after)),
    )


def _items(report: Report) -> list[str]:
    """The files of multiple-choice items, and how many were used of each."""
    return [f"{one['name']} ({one['items']} items, {one['sha256'][:8]})" for one in report.get("choices", [])]


def _hashes(report: Report) -> set[str]:
    return {file["sha256"] for file in report["reference"]["files"]}


def _output(before: Output, after: Output, same_reference: bool, same_items: bool) -> OutputChange:
    tests = _paired(before, after, same_reference)
    names = [name for name in DEFINITIONS if name in before["metrics"] or name in after["metrics"]]
    if not same_items:  # answers to other questions are no change
        names = [name for name in names if resampled(name) != "items"]
    metrics = (_metric(name, before, after, tests.get(name)) for name in names)
    return OutputChange(
        after["label"],
        before["status"],
        after["status"],
        _verdict(before, after),
        after["reason"],
        tuple(_files(before, after)),
        tuple(change for change in metrics if change is not None),
        tuple(_speed(before, after)),
    )


def _verdict(before: Output, after: Output) -> Kind:
    """A pass that is lost is worse, but not where this machine cannot run it: then nothing is known."""
    if before["status"] == after["status"]:
        return Kind.NOISE
    if after["status"] == "passed":
        return Kind.BETTER
    lost = before["status"] == "passed" or after["status"] == "failed"
    return Kind.WORSE if lost and not after["neutral"] else Kind.UNJUDGED


def _files(before: Output, after: Output) -> Iterator[str]:
    """Files of the same name with other content, and files that only one side has."""
    old, new = (
        {PurePosixPath(file["path"]).name: file["sha256"] for file in output["files"]} for output in (before, after)
    )
    yield from (name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name))


# ---- metrics


def _paired(before: Output, after: Output, same_reference: bool) -> dict[str, statistics.Paired]:
    """Metric -> the paired test on its sums over windows; none where there are too few.

    A ratio to the perplexity of another reference is another number. Where one has read further (`tokens: auto`), what
    both have read counts.
    """
    both = min(len(before["windows"]), len(after["windows"]))
    try:
        found = statistics.paired(before["windows"][:both], after["windows"][:both])
    except ValueError:
        return {}
    comparable = {name: sums for name, sums in PAIRED.items() if same_reference or sums != "nll"}
    return {name: found[sums] for name, sums in comparable.items() if math.isfinite(found[sums].low)}


def _metric(name: str, before: Output, after: Output, test: statistics.Paired | None) -> MetricChange | None:
    """How the metric changed; None where it did not, or by less than anybody cares for."""
    old, new = before["metrics"].get(name), after["metrics"].get(name)
    if old == new:
        return None
    if old is None or new is None:  # the verdict says what that means
        return MetricChange(name, old, new, Kind.UNJUDGED)
    if abs(new - old) <= _small(name, old):
        return None
    if test is not None:
        low, high = _scaled(name, test, old)
        return MetricChange(name, old, new, _kind(name, test.difference, low, high), low, high, True)
    if name in CONTRACT_LIMITS:
        return MetricChange(name, old, new, _direction(name, new - old))
    room = _room(old, before["intervals"].get(name), new, after["intervals"].get(name))
    if room is None:
        return MetricChange(name, old, new, Kind.UNJUDGED)
    low, high = new - old - room, new - old + room
    return MetricChange(name, old, new, _kind(name, new - old, low, high), low, high)


def _small(name: str, value: float) -> float:
    """Up to which difference a metric is taken to be the same."""
    if name in CONTRACT_LIMITS:
        return 0.0
    if name in SMALL:
        return SMALL[name]
    return max(SMALL_KL, SMALL_SHARE * abs(value)) if "kl" in name else SMALL_ELSE


def _scaled(name: str, test: statistics.Paired, value: float) -> tuple[float, float]:
    """The interval of the difference in the metric's own unit: of a perplexity ratio the sums are logarithms."""
    if name != "ppl_ratio":
        return test.low, test.high
    return value * math.expm1(test.low), value * math.expm1(test.high)


def _room(old: float, old_ends: Sequence[float] | None, new: float, new_ends: Sequence[float] | None) -> float | None:
    """How far two independent measurements of one thing may lie apart; None where one has no interval."""
    if old_ends is None or new_ends is None:
        return None
    (old_low, old_high), (new_low, new_high) = old_ends, new_ends
    towards = (old_high - old, new - new_low) if new > old else (old - old_low, new_high - new)
    return math.hypot(*towards)


def _kind(name: str, difference: float, low: float, high: float) -> Kind:
    return Kind.NOISE if low <= 0 <= high else _direction(name, difference)


def _direction(name: str, difference: float) -> Kind:
    lower_is_better = DEFINITIONS[name].better is Better.LOWER
    return Kind.WORSE if (difference > 0) == lower_is_better else Kind.BETTER


SPEEDS = ("load_seconds", "prefill_tokens_per_second", "decode_tokens_per_second", "peak_memory_bytes")
SPEED_SHARE = 0.25  # what two measurements of one file may differ by on one machine
SMALL_LOAD = 0.5  # seconds that nobody notices


def _speed(before: Output, after: Output) -> Iterator[MetricChange]:
    sides: list[Mapping[str, object]] = [cast(Mapping[str, object], o["speed"] or {}) for o in (before, after)]
    for name in SPEEDS:
        old, new = (side.get(name) for side in sides)
        if isinstance(old, int | float) and isinstance(new, int | float):
            small = max(SPEED_SHARE * abs(old), SMALL_LOAD if name == "load_seconds" else 0.0)
            if abs(new - old) > small:
                yield MetricChange(name, old, new, Kind.UNJUDGED)


# ---- what was measured with, on and against


def _conditions(before: Report, after: Report) -> Iterator[tuple[str, str, str]]:
    sides = before, after
    yield from (
        *_pairs("reference", *(_reference(report) for report in sides)),
        *_pairs("items", *({"items": ", ".join(_items(report)) or "none"} for report in sides)),
        *_pairs("recipe", *({"sha256": report["provenance"]["recipe_sha256"]} for report in sides)),
        *_pairs("version", *({"convert": r["provenance"]["convert"], **r["provenance"]["versions"]} for r in sides)),
        *_pairs("machine", *({k: str(v) for k, v in r["provenance"]["machine"].items()} for r in sides)),
    )


def _reference(report: Report) -> dict[str, str]:
    reference = report["reference"]
    words = {word: str(value) for word, value in reference.items() if word in ("model", "revision", "runtime", "dtype")}
    return words | {f"file {file['path']}": file["sha256"] for file in reference["files"]}


def _pairs(part: str, old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield f"{part} {name}" if name != part else part, old.get(name, "none"), new.get(name, "none")
