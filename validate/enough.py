"""`tokens: auto`: how much text a candidate has to read before each of its limits is surely kept or surely missed.

    steps = enough.steps([len(w) for w in windows.tokens])   # [4, 8, 16, …]: after so many windows it is asked
    limits = enough.decidable({metric: limit})               # those that more text can decide
    verdict = enough.decide(drifts, limits)                  # of one candidate, its windows so far
    reading = enough.reading(drifts, verdict)                # what the report says: how much, and why no more

Asked after each doubling, a 95 % interval is on the wrong side a little more often than one time in twenty: a limit
that is missed or kept by a hair deserves a fixed number of `tokens:`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from validate import drift
from validate.drift import WindowDrift
from validate.metrics import DEFINITIONS, Better, number

FIRST_TOKENS = 2048  # of the first step; each further one doubles what was read
MOST_TOKENS = 65_536


@dataclass(frozen=True)
class Undecided:
    """A limit that lies inside the metric's interval, or whose metric has none yet."""

    metric: str
    value: float
    limit: float
    interval: tuple[float, float] | None  # None: too little was read to say

    def __str__(self) -> str:
        better, said = DEFINITIONS[self.metric].better, f"{self.metric} {number(self.value, self.limit)}"
        if self.interval is None:
            return f"{said} (too few positions for an interval), limit {better} {self.limit:g}"
        low, high = (f"{bound:.3g}" for bound in self.interval)
        return f"{said} ({low} to {high}), limit {better} {self.limit:g}"


@dataclass(frozen=True)
class Decision:
    """Whether the interval of every limited metric lies on one side of its limit, and of which it does not."""

    undecided: tuple[Undecided, ...] = ()

    @property
    def decided(self) -> bool:
        return not self.undecided


@dataclass(frozen=True)
class Reading:
    """What one candidate read of the texts, as its row of the report has it."""

    tokens: int  # positions, a window's leading BOS counted
    windows: int
    decided: bool
    reason: str  # why it stopped there


def steps(lengths: Sequence[int], first: int = FIRST_TOKENS, most: int = MOST_TOKENS) -> list[int]:
    """After how many windows (of these lengths, in order) it is asked whether that is enough; rising, the last is all.

    The first step has `first` tokens or just above, each further one twice as many, the last one at most about `most`.
    """
    ends = list(accumulate(lengths))
    found: list[int] = []
    wanted = first
    for windows, end in enumerate(ends, 1):
        if end >= wanted or windows == len(ends):
            found.append(windows)
            while wanted <= end:
                wanted *= 2
        if end >= most:
            break
    return found


def decidable(limits: Mapping[str, float]) -> dict[str, float]:
    """The limits on metrics that have an interval over texts: those that reading more can decide."""
    return {name: limit for name, limit in limits.items() if name in drift.RESAMPLED}


def decide(drifts: Sequence[WindowDrift], limits: Mapping[str, float]) -> Decision:
    """Whether the windows so far put every limit outside its metric's 95 % interval.

    `limits` maps a metric to its limit; metrics that no text is resampled for are passed over. Raises NotComparable
    where nothing was read.
    """
    asked = decidable(limits)
    if not asked:
        return Decision()
    summary = drift.summarize(drifts, asked)
    open_ = (
        Undecided(name, summary.metrics[name], limit, summary.intervals.get(name)) for name, limit in asked.items()
    )
    return Decision(tuple(one for one in open_ if not _outside(one)))


def _outside(one: Undecided) -> bool:
    """Whether the whole interval keeps the limit, or the whole of it misses the limit."""
    if one.interval is None:
        return False
    low, high = one.interval
    if DEFINITIONS[one.metric].better is Better.LOWER:
        return high <= one.limit or low > one.limit
    return low >= one.limit or high < one.limit


def reading(drifts: Sequence[WindowDrift], decision: Decision, most: int = MOST_TOKENS) -> Reading:
    """What was read, and why no more: everything is decided, `most` tokens are read, or the texts have no more."""
    tokens, windows = sum(len(w.kl) for w in drifts), len(drifts)
    if decision.decided:
        return Reading(tokens, windows, True, f"every limit is decided after {tokens:,} tokens")
    end = "the most that is read" if tokens >= most else "where the texts end"
    left = "; ".join(map(str, decision.undecided))
    return Reading(tokens, windows, False, f"not decided after {tokens:,} tokens, {end}: {left}")
