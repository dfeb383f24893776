"""How sure a number is: the text it was measured on is resampled in blocks, seeded (block bootstrap).

Neighbours in a text are not independent: one hard sentence is hard for many tokens. So whole windows are drawn again,
with replacement, or long runs of positions where there are few windows (Künsch, Annals of Statistics 17, 1989). With
few blocks the spread of such draws is too narrow, by sqrt((n-1)/n) and by the normal's tails instead of Student's; the
draws are spread by as much (Hesterberg, The American Statistician 69, 2015, on narrowness bias).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np

DRAWS = 1000
SURE = 0.95  # of the draws, on which a limit is missed
SEED = 20
WANTED_BLOCKS = 16
SHORTEST_BLOCK = 16  # positions
FEWEST_BLOCKS = 4  # that say anything about their spread
BEYOND = 10  # positions that a quantile needs beyond it
_AT_ONCE = 2_000_000  # resampled values in memory: 8 MB


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of the draws; NaN where there are none."""
    if not len(draws):
        return float("nan"), float("nan")
    low, high = np.percentile(draws, (2.5, 97.5))
    return float(low), float(high)


def p_worse(draws: np.ndarray, limit: float, lower_is_better: bool) -> float:
    """The share of draws that miss the limit: near 1 it is surely missed, near 0 surely kept."""
    return float(np.mean(draws > limit if lower_is_better else draws < limit))


# ---- texts


@dataclass(frozen=True)
class Blocks:
    """Positions that are drawn together: the block of every position, window behind window."""

    labels: np.ndarray  # int (position,)
    scored: np.ndarray  # bool (position,): all but the last of each window
    number: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Blocks:
        """Whole windows where there are WANTED_BLOCKS, else runs of them, none shorter than SHORTEST_BLOCK."""
        long = max(SHORTEST_BLOCK, sum(lengths) // WANTED_BLOCKS)
        many = len(lengths) >= WANTED_BLOCKS
        labels: list[np.ndarray] = [np.empty(0, np.int64)]
        scored: list[np.ndarray] = [np.empty(0, bool)]
        number = 0
        for length in lengths:
            pieces = 1 if many else max(1, min(-(-length // long), length // SHORTEST_BLOCK))
            labels.append(number + np.arange(length) * pieces // length)
            scored.append(np.arange(length) < length - 1)
            number += pieces
        return cls(np.concatenate(labels), np.concatenate(scored), number)

    @cached_property
    def drawn(self) -> np.ndarray:
        """(draw, block): how often each block is in a draw; the same for all metrics, outputs and runs."""
        return _drawn(self.number)

    def part(self, chosen: np.ndarray) -> Blocks:
        """The blocks of some positions only: those that have any."""
        _, labels = np.unique(self.labels[chosen], return_inverse=True)
        return Blocks(labels, self.scored[chosen], int(labels.max()) + 1)

    def means(self, values: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
        """Draws of the mean of values that lie in the blocks `labels`; those of all positions when left out."""
        labels = self.labels if labels is None else labels
        sums = np.bincount(labels, values, self.number)
        sizes = np.bincount(labels, minlength=self.number)
        return spread(_ratios(self.drawn, sums, sizes), float(values.mean()), self.number)

    def quantiles(
        self, values: np.ndarray, shares: Sequence[float], labels: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """Draws of each quantile; none (an empty array) where fewer than BEYOND values lie beyond it."""
        labels = self.labels if labels is None else labels
        order = np.argsort(values)
        rising, labels = values[order], labels[order]
        found = np.empty((len(self.drawn), len(shares)))
        for start in range(0, len(self.drawn), step := max(1, _AT_ONCE // len(values))):
            weights = self.drawn[start : start + step, labels]
            ends = np.cumsum(weights.sum(1))
            begins = np.concatenate([[0], ends[:-1]])
            # All draws behind one another, so that one search finds the places in all of them.
            wanted = begins[:, None] + np.multiply.outer(ends - begins, shares)
            places = np.searchsorted(np.cumsum(weights, dtype=np.int64), wanted)
            found[start : start + step] = rising[places % len(rising)]
        estimates = np.quantile(values, shares)
        return [
            spread(row, float(estimate), self.number) if len(values) * (1 - share) >= BEYOND else np.empty(0)
            for row, estimate, share in zip(found.T, estimates, shares, strict=True)
        ]


def spread(draws: np.ndarray, estimate: float, blocks: int) -> np.ndarray:
    """Draws around an estimate, as far from it as Student's t has it with so many blocks."""
    if blocks < FEWEST_BLOCKS:
        return np.empty(0)
    wider = (blocks / (blocks - 1)) ** 0.5 * _t975(blocks - 1) / _Z975
    return np.asarray(estimate + (draws - estimate) * wider)


def _drawn(number: int) -> np.ndarray:
    rng = np.random.default_rng((SEED, number))
    return rng.multinomial(number, np.full(number, 1 / number), size=DRAWS).astype(np.int32)


def _ratios(drawn: np.ndarray, sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Sums over sizes of every draw that has any."""
    weight = drawn @ sizes
    return np.asarray((drawn @ sums)[weight > 0] / weight[weight > 0])


_Z975 = 1.959964  # the normal's 97.5th percentile


def _t975(freedom: int) -> float:
    """Student's 97.5th percentile, by its expansion around the normal's (Abramowitz and Stegun 26.7.5).

    Right to 0.001 from 7 degrees of freedom, to 0.025 from 3.
    """
    z = _Z975
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


# ---- tasks


def shares(values: Sequence[float] | np.ndarray, lowest: float = 0.0) -> np.ndarray:
    """Draws of the mean of what tasks gave: 1 for a success and 0 for none, or differences of two of those.

    Tasks are independent, so each is a block; weights are Dirichlet's instead of counts (Rubin's Bayesian bootstrap),
    with half an observation more at `lowest` and at 1: of ten successes in ten the draws are not all 1. For successes
    that is Jeffreys' interval, whose coverage is close to what it says (Brown, Cai, DasGupta, Statistical Science 16,
    2001). `lowest` is -1 for differences.
    """
    outcomes, counts = np.unique(np.asarray(values, float), return_counts=True)
    if not len(outcomes):
        return np.empty(0)
    outcomes = np.concatenate([outcomes, [lowest, 1.0]])
    weights = np.random.default_rng(SEED).gamma(np.concatenate([counts, [0.5, 0.5]]), size=(DRAWS, len(outcomes)))
    return np.asarray(weights @ outcomes / weights.sum(1))


# ---- two outputs, or two runs


class Paired(NamedTuple):
    """Second minus first, its 95 % interval, and `p`: how often chance alone would give as much, either way."""

    difference: float
    low: float
    high: float
    p: float


_SIZES = {"kl": "positions", "top1": "positions", "nll": "scored"}


def over_windows(sums: Sequence[float], sizes: Sequence[int]) -> tuple[float, np.ndarray]:
    """The mean over the positions of windows, and its draws over windows; none below FEWEST_BLOCKS of them."""
    totals, counts = np.asarray(sums, float), np.asarray(sizes, float)
    mean = float(totals.sum() / counts.sum())
    if len(counts) < FEWEST_BLOCKS:
        return mean, np.empty(0)
    return mean, spread(_ratios(_drawn(len(counts)), totals, counts), mean, len(counts))


def paired(first: Sequence[Mapping[str, object]], second: Sequence[Mapping[str, object]]) -> dict[str, Paired]:
    """The change of the means of `kl`, `top1` and `nll` between two measurements of the same windows.

    Each is a list of sums over windows (schema.WindowEntry). Both sides get the same draws of windows, so what makes a
    window hard for both cancels. `low`, `high` and `p` are NaN below FEWEST_BLOCKS windows. Raises ValueError when the
    windows are not the same.
    """
    found = {}
    for name, size in _SIZES.items():
        one, other = _column(first, name), _column(second, name)
        sizes = _column(first, size)
        if not np.array_equal(sizes, _column(second, size)) or not sizes.sum():
            raise ValueError(f"the two measurements are not of the same windows: {size} differ")
        difference = float((other - one).sum() / sizes.sum())
        draws = np.empty(0)
        if len(sizes) >= FEWEST_BLOCKS:
            draws = spread(_ratios(_drawn(len(sizes)), other - one, sizes), difference, len(sizes))
        found[name] = Paired(difference, *interval(draws), _p_two_sided(draws))
    return found


def _column(windows: Sequence[Mapping[str, object]], name: str) -> np.ndarray:
    return np.array([float(cast(float, window[name])) for window in windows])


def _p_two_sided(draws: np.ndarray) -> float:
    if not len(draws):
        return float("nan")
    above, below = int((draws >= 0).sum()), int((draws <= 0).sum())
    return min(1.0, 2 * (min(above, below) + 1) / (len(draws) + 1))
