"""Which output drifts less than which: paired draws, so that what makes a text hard for both cancels.

The draws of all outputs are of the same resampled blocks of the same text (statistics.Blocks), draw by draw. A
difference counts where the 95 % interval of the ratio of two mean KLs leaves out 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from validate import statistics

LEAST = 1e-9  # KL below it is what float32 logits of another order of summation give: no difference
ALIKE = 1.05  # sizes of which the larger is at most so many times the smaller are about the same


@dataclass(frozen=True)
class Entrant:
    """An output's name, what it competes in, size in bytes, mean KL and its draws."""

    name: str
    kind: str  # pairs of a size are of one kind: a format on its runtime
    size: int
    kl: float
    draws: np.ndarray


@dataclass(frozen=True)
class Duel:
    """Two outputs: by which share `better` drifts less than `worse`, and the interval; both signs where tied."""

    better: str
    worse: str
    by: float
    low: float
    high: float
    same_size: bool  # and of one kind

    @property
    def tied(self) -> bool:
        return not self.low > 0


@dataclass(frozen=True)
class Ranking:
    """Names in groups, the best first: those of a group cannot be told from its best. `duels` are the telling pairs."""

    groups: Sequence[Sequence[str]]
    duels: Sequence[Duel]


def rank(entrants: Sequence[Entrant]) -> Ranking | None:
    """The ranking by mean KL of those that have draws; None for fewer than two.

    `duels`: the best of each group against the best of the one behind it, and pairs of one kind and size.
    """
    known = sorted((e for e in entrants if len(e.draws)), key=lambda e: e.kl)
    if len(known) < 2:
        return None
    groups: list[list[Entrant]] = []
    for entrant in known:
        if groups and duel(groups[-1][0], entrant).tied:
            groups[-1].append(entrant)
        else:
            groups.append([entrant])
    found = [duel(one[0], other[0]) for one, other in pairwise(groups)]
    seen = {(d.better, d.worse) for d in found}
    found += [d for d in _of_a_size(known) if (d.better, d.worse) not in seen]
    return Ranking([[e.name for e in group] for group in groups], found)


def duel(better: Entrant, worse: Entrant) -> Duel:
    """What their ratio says; NaN ends where there are not as many draws of both."""
    ours, theirs = max(better.kl, LEAST), max(worse.kl, LEAST)
    low = high = math.nan
    if len(better.draws) == len(worse.draws):
        ratios = np.maximum(better.draws, LEAST) / np.maximum(worse.draws, LEAST)
        low, high = statistics.interval(1 - ratios)
    alike = better.kind == worse.kind and max(better.size, worse.size) <= ALIKE * min(better.size, worse.size)
    return Duel(better.name, worse.name, 1 - ours / theirs, low, high, alike)


def _of_a_size(known: Sequence[Entrant]) -> Iterator[Duel]:
    for place, one in enumerate(known):
        for other in known[place + 1 :]:
            found = duel(one, other)
            if found.same_size:
                yield found
