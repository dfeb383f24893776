"""Intervals hold what they are to hold, as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from validate import statistics
from validate.statistics import Blocks, interval, p_worse, paired, shares


def alike(rng: np.random.Generator, windows: int, length: int) -> np.ndarray:
    """(window, position) normal numbers of mean 0 whose neighbours are alike: a hard passage is hard for a while."""
    noise = rng.standard_normal((windows, length))
    noise[:, 0] /= math.sqrt(1 - 0.7**2)
    for i in range(1, length):
        noise[:, i] += 0.7 * noise[:, i - 1]
    return noise * math.sqrt(1 - 0.7**2)


@pytest.mark.parametrize(("windows", "length"), [(20, 128), (4, 256)])
def test_the_interval_of_a_mean_holds_it_in_92_of_100_though_neighbours_are_alike(windows: int, length: int) -> None:
    held, skewed, naive = [], [], []
    for seed in range(300):
        values = alike(np.random.default_rng(seed), windows, length).ravel()
        blocks = Blocks.of([length] * windows)
        low, high = interval(blocks.means(values))
        held.append(low <= 0 <= high)
        low, high = interval(blocks.means(np.exp(values)))  # many small ones, few large ones: what KL is like
        skewed.append(low <= math.exp(0.5) <= high)
        naive.append(abs(values.mean()) <= 1.96 * values.std() / math.sqrt(len(values)))
    assert 0.92 <= np.mean(held) <= 0.98
    assert 0.90 <= np.mean(skewed) <= 0.98
    assert np.mean(naive) < 0.7


def test_the_interval_of_a_quantile_holds_it() -> None:
    held = []
    for seed in range(80):
        values = alike(np.random.default_rng(seed), 20, 128).ravel()
        low, high = interval(Blocks.of([128] * 20).quantiles(values, [0.95])[0])
        held.append(low <= 1.6449 <= high)
    assert 0.87 <= np.mean(held) <= 0.99


def test_draws_of_quantiles_are_those_of_the_resampled_text() -> None:
    rng = np.random.default_rng(0)
    values, blocks = rng.gamma(1.0, size=16 * 30), Blocks.of([30] * 16)
    (median,) = blocks.quantiles(values, [0.5])
    plain = []
    for counts in blocks.drawn:
        text = np.concatenate([np.tile(values[30 * b : 30 * b + 30], count) for b, count in enumerate(counts)])
        plain.append(np.quantile(text, 0.5, method="inverted_cdf"))
    estimate = np.quantile(values, 0.5)
    wider = math.sqrt(16 / 15) * 2.1314 / 1.96  # Student's t of 15 degrees of freedom
    np.testing.assert_allclose(median, estimate + wider * (np.array(plain) - estimate), rtol=1e-4)


@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([100] * 16, {100}),  # enough windows: each is one
        ([40] * 30 + [8], {40, 8}),
        ([512] * 4, {128}),
        ([512], {32}),
        ([100], {16, 17}),  # 6 of at least 16
        ([200, 20], {16, 17, 20}),
        ([5, 9], {5, 9}),
    ],
)
def test_blocks_are_windows_or_long_runs(lengths: list[int], sizes: set[int]) -> None:
    blocks = Blocks.of(lengths)
    assert set(np.bincount(blocks.labels).tolist()) == sizes
    assert (np.diff(blocks.labels) >= 0).all()
    assert blocks.labels[-1] == blocks.number - 1
    ends = np.cumsum(lengths)
    assert np.flatnonzero(~blocks.scored).tolist() == (ends - 1).tolist()
    assert all(blocks.labels[end - 1] != blocks.labels[end] for end in ends[:-1]), "a block within one window"
    if sum(lengths) >= 16 * 16 and len(set(lengths)) == 1:
        assert blocks.number >= 16


def test_the_same_text_gives_the_same_draws() -> None:
    values = np.random.default_rng(0).random(320)
    one, other = (Blocks.of([20] * 16).means(values) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_too_few_blocks_say_nothing() -> None:
    assert not len(Blocks.of([16] * 3).means(np.ones(48)))
    assert all(map(math.isnan, interval(np.empty(0))))


@pytest.mark.parametrize(("freedom", "quantile"), [(3, 3.182), (7, 2.3646), (20, 2.0860), (63, 1.9983), (10**6, 1.96)])
def test_quantiles_of_students_t(freedom: int, quantile: float) -> None:
    assert statistics._t975(freedom) == pytest.approx(quantile, abs=0.025 if freedom < 7 else 1e-3)


def test_worse_than_the_limit_is_a_share_of_the_draws() -> None:
    draws = np.arange(100.0)
    assert p_worse(draws, 89.0, lower_is_better=True) == 0.10
    assert p_worse(draws, 10.0, lower_is_better=False) == 0.10
    assert p_worse(np.ones(10), 1.0, lower_is_better=True) == p_worse(np.ones(10), 1.0, lower_is_better=False) == 0


# ---- tasks


def test_all_of_twenty_hits_do_not_prove_that_there_are_no_misses() -> None:
    low, high = interval(shares([1.0] * 20))
    assert low == pytest.approx(0.885, abs=0.02)  # Jeffreys: 0.883
    assert high > 0.999
    assert 0.3 < p_worse(shares([1.0] * 20), 0.99, lower_is_better=False) < 0.9


def test_the_interval_of_a_rate_holds_it_in_92_of_100() -> None:
    rng = np.random.default_rng(0)
    rates = rng.uniform(0.5, 1, 600)
    held = [low <= rate <= high for rate in rates for low, high in (interval(shares(rng.random(100) < rate)),)]
    assert 0.92 <= np.mean(held) <= 0.98


def test_the_fall_of_a_rate_is_taken_task_by_task() -> None:
    lost = np.array([0.0] * 90 + [1.0] * 10)
    low, high = interval(shares(lost, lowest=-1.0))
    assert 0.04 < low < 0.1 < high < 0.18
    low, high = interval(shares(np.zeros(100), lowest=-1.0))
    assert -0.03 < low < 0 < high < 0.03
    assert not len(shares([]))


# ---- two measurements


def sums(kl: np.ndarray, top1: np.ndarray, nll: np.ndarray) -> list[dict[str, object]]:
    return [
        {"positions": 64, "scored": 63, "kl": k, "top1": int(t), "nll": n, "nll_reference": 0.0}
        for k, t, n in zip(kl, top1, nll, strict=True)
    ]


def test_a_difference_smaller_than_the_texts_spread_is_found_in_pairs() -> None:
    rng = np.random.default_rng(0)
    kl, top1, nll = rng.gamma(2.0, size=20), rng.integers(50, 64, 20), rng.gamma(5.0, size=20)
    first = sums(kl, top1, nll)
    second = sums(kl * 1.02, top1, nll + 0.63 + 0.01 * rng.standard_normal(20))
    found = paired(first, second)
    assert found["kl"].difference == pytest.approx(0.02 * kl.sum() / (64 * 20))
    assert 0 < found["kl"].low < found["kl"].difference < found["kl"].high
    assert found["kl"].p < 0.01
    assert found["nll"].difference == pytest.approx(0.01, rel=0.05)
    assert found["nll"].p < 0.01
    assert found["top1"] == (0.0, 0.0, 0.0, 1.0)
    back = paired(second, first)
    assert back["kl"].difference == -found["kl"].difference
    assert back["kl"].p < 0.01


@pytest.mark.parametrize("windows", [5, 20])
def test_chance_is_called_a_change_in_5_of_100(windows: int) -> None:
    rng = np.random.default_rng(1)
    called = []
    for _ in range(400):
        hard = rng.gamma(2.0, size=windows)
        one, other = (hard + 0.1 * rng.standard_normal(windows) for _ in range(2))
        called.append(paired(sums(one, one > 1, one), sums(other, other > 1, other))["kl"].p < 0.05)
    assert 0.02 <= np.mean(called) <= 0.08


def test_other_windows_cannot_be_paired_and_few_say_nothing() -> None:
    ones = np.ones(20)
    with pytest.raises(ValueError, match="not of the same windows"):
        paired(sums(ones, ones, ones), sums(ones[:19], ones[:19], ones[:19]))
    with pytest.raises(ValueError, match="not of the same windows"):
        paired([], [])
    few = paired(sums(ones[:3], ones[:3], ones[:3]), sums(2 * ones[:3], ones[:3], ones[:3]))
    assert few["kl"].difference == pytest.approx(1 / 64)
    assert math.isnan(few["kl"].low)
    assert math.isnan(few["kl"].p)
