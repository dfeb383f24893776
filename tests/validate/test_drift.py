"""Drift and perplexity against formulas written the plain way, and what must never be a pass."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from validate import compressed_logits, drift, logits

EVERYTHING = 1 << 40


@pytest.fixture
def both() -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(0)
    reference = (rng.standard_normal((37, 51)) * 3).astype(np.float32)
    candidate = reference + (rng.standard_normal((37, 51)) * 0.2).astype(np.float32)
    return reference, candidate, rng.integers(0, 51, 37).tolist()


def compared(reference: np.ndarray, candidate: np.ndarray, tokens: list[int]) -> drift.WindowDrift:
    return drift.compare(compressed_logits.compress(reference, tokens, EVERYTHING), candidate, tokens)


def probabilities(row: np.ndarray) -> list[float]:
    weights = [math.exp(float(x) - float(row.max())) for x in row]
    return [w / sum(weights) for w in weights]


def test_every_number_is_what_the_plain_formula_gives(both: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, candidate, tokens = both
    p = [probabilities(row) for row in reference]
    q = [probabilities(row) for row in candidate]
    kl = [sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    change = [q[i][t] - p[i][t] for i, t in enumerate(tokens[1:])]
    nll = [[-math.log(side[i][t]) for i, t in enumerate(tokens[1:])] for side in (p, q)]
    five = [[set(np.argsort(row)[-5:].tolist()) for row in side] for side in (p, q)]

    window = compared(*both)
    got = drift.summarize([window]).metrics

    np.testing.assert_allclose(window.kl, kl, rtol=1e-9)
    np.testing.assert_allclose(np.exp(-window.nll_reference), [p[i][t] for i, t in enumerate(tokens[1:])])
    assert got["positions"] == 37
    assert got["tokens"] == 36
    assert got["kl_mean"] == pytest.approx(sum(kl) / 37)
    assert got["kl_median"] == pytest.approx(sorted(kl)[18])
    assert got["kl_max"] == pytest.approx(max(kl))
    assert sorted(kl)[-3] <= got["kl_p95"] <= got["kl_p99"] <= got["kl_p999"] <= max(kl)
    assert got["top1"] == sum(max(a) == a[b.index(max(b))] for a, b in zip(p, q, strict=True)) / 37
    assert got["top5"] == pytest.approx(sum(len(a & b) / 5 for a, b in zip(*five, strict=True)) / 37)
    assert got["p_rms"] == pytest.approx(math.sqrt(sum(c * c for c in change) / 36))
    assert got["p_p99"] == pytest.approx(np.percentile(np.abs(change), 99))
    assert got["logit_max_abs"] == pytest.approx(float(np.abs(candidate - reference).max()))
    assert got["ppl_reference"] == pytest.approx(math.exp(sum(nll[0]) / 36))
    assert got["ppl"] == pytest.approx(math.exp(sum(nll[1]) / 36))
    assert got["ppl_ratio"] == pytest.approx(got["ppl"] / got["ppl_reference"])
    assert got["ppl_change"] == pytest.approx(abs(got["ppl_ratio"] - 1))


def test_chunks_change_nothing(both: tuple[np.ndarray, np.ndarray, list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    whole, arrays = compared(*both), drift.kl(*both[:2])
    monkeypatch.setattr(logits, "CHUNK_VALUES", 51 * 5)
    for name, values in vars(compared(*both)).items():
        np.testing.assert_allclose(values, getattr(whole, name), rtol=1e-12)
    np.testing.assert_allclose(drift.kl(*both[:2]), arrays, rtol=1e-12)
    np.testing.assert_allclose(arrays, whole.kl, rtol=1e-12)


def test_equal_logits_do_not_drift(both: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, _, tokens = both
    got = drift.summarize([compared(reference, reference.copy(), tokens)]).metrics
    assert (got["kl_mean"], got["kl_max"], got["top1"], got["top5"], got["logit_max_abs"]) == (0.0, 0.0, 1.0, 1.0, 0.0)
    assert got["ppl_ratio"] == 1.0


@pytest.mark.parametrize("room", [1, EVERYTHING])
def test_among_equal_logits_the_lower_id_comes_first_on_both_sides(room: int) -> None:
    reference = np.zeros((1, 400), np.float32)
    candidate = reference.copy()
    candidate[0, 399] = -1.0
    got = drift.compare(compressed_logits.compress(reference, [0], room), candidate, [0])
    assert (got.same_top[0], got.top5[0]) == (True, 1.0)
    candidate[0, 7:] = 0.5  # its five are now 7 to 11
    got = drift.compare(compressed_logits.compress(reference, [0], room), candidate, [0])
    assert (got.same_top[0], got.top5[0]) == (False, 0.0)
    reference[0, 3:8] = 1.0
    got = drift.compare(compressed_logits.compress(reference, [0], room), np.zeros((1, 400), np.float32), [0])
    assert got.top5[0] == pytest.approx(2 / 5)  # its five are 0 to 4


def test_a_vocabulary_of_less_than_five(both: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    got = compared(both[0][:, :3], both[0][:, :3], [0] * 37)
    assert got.top5.tolist() == [1.0] * 37


def test_a_drift_far_below_float32_is_measured() -> None:
    reference = np.random.default_rng(1).standard_normal((8, 4000)).astype(np.float32)
    candidate = reference * np.float32(1 + 1e-4)
    got = compared(reference, candidate, [0] * 8)
    assert 4e-9 < got.kl.mean() < 6e-9  # half of Var(logits) * 1e-8


def test_a_candidate_without_sense_gives_finite_numbers() -> None:
    reference = np.random.default_rng(1).standard_normal((8, 4000)).astype(np.float32) * 30
    for room in (8 * 3000, EVERYTHING):
        got = drift.compare(compressed_logits.compress(reference, [0] * 8, room), -50 * reference, [0] * 8)
        assert np.isfinite(got.kl).all()
        assert got.kl.min() > 1000


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_not_finite_is_refused_and_found(
    both: tuple[np.ndarray, np.ndarray, list[int]], value: float, side: int
) -> None:
    both[side][20, 7] = value
    who = ("reference", "candidate")[side]
    for ask in (lambda: compared(*both), lambda: drift.kl(*both[:2])):
        with pytest.raises(drift.NotComparable, match=f"{who}'s logits are not finite: 1 of 51 values at position 20"):
            ask()


def test_another_vocabulary_is_refused(both: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, candidate, tokens = both
    for ask in (lambda: compared(reference, candidate[:, :-1], tokens), lambda: drift.kl(reference, candidate[:, :-1])):
        with pytest.raises(drift.NotComparable, match=r"shape \(37, 50\), the reference's \(37, 51\)"):
            ask()
    with pytest.raises(drift.NotComparable, match="logits of 37 positions for 36 tokens"):
        drift.compare(compressed_logits.compress(reference, tokens, EVERYTHING), candidate, tokens[:-1])


def test_nothing_measured_is_no_result(both: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    with pytest.raises(drift.NotComparable, match="no window"):
        drift.summarize([])
    with pytest.raises(drift.NotComparable, match="nothing to score"):
        drift.summarize([compared(both[0][:1], both[1][:1], [3])])


# ---- a text


def made_windows(count: int, length: int, seed: int = 0) -> list[drift.WindowDrift]:
    """Windows of numbers as they come: KL over orders of magnitude, a candidate slightly worse."""
    rng = np.random.default_rng(seed)
    windows = []
    for _ in range(count):
        kl = np.exp(rng.standard_normal(length) * 1.5 - 8)
        nll = rng.gamma(1.0, 2.0, length - 1)
        more = nll + 0.02 * rng.standard_normal(length - 1) + 0.001
        five = rng.integers(3, 6, length) / 5
        windows.append(drift.WindowDrift(kl, rng.random(length) < 0.97, five, kl + 1, nll, more))
    return windows


def test_what_can_be_resampled_has_an_interval_around_it_and_draws() -> None:
    summary = drift.summarize(made_windows(20, 512))
    assert (
        set(summary.draws)
        == set(summary.intervals)
        == {
            *("kl_mean", "kl_median", "kl_p95", "kl_p99", "kl_p999", "top1", "top5"),
            *("p_rms", "p_p99", "ppl_ratio", "ppl_change"),
        }
    )  # no maximum among them
    for name, (low, high) in summary.intervals.items():
        assert low <= summary.metrics[name] <= high, name
        assert 0 <= low < high, name
        assert len(summary.draws[name]) == 1000
        assert np.isfinite(summary.draws[name]).all()
    assert summary.intervals["top1"][1] <= 1
    low, high = summary.intervals["ppl_ratio"]
    assert 1 < low < 1.001 < high < 1.002


def test_too_few_positions_beyond_a_quantile_or_too_few_blocks_give_no_interval() -> None:
    summary = drift.summarize(made_windows(4, 128))
    assert "kl_p95" in summary.intervals  # 25 positions beyond it
    assert "kl_p99" not in summary.intervals  # 5
    assert "kl_p999" not in summary.draws
    assert "kl_p999" in summary.metrics
    assert not drift.summarize(made_windows(1, 40)).intervals


def test_quantiles_rise_to_the_worst_position() -> None:
    windows = made_windows(5, 200)
    quantiles = drift.summarize(windows).quantiles
    shares, values = zip(*quantiles, strict=True)
    assert list(shares) == sorted(set(shares))
    assert list(values) == sorted(values)
    assert (shares[0], shares[-1]) == (0, 1)
    assert values[-1] == max(w.kl.max() for w in windows)


def test_a_perplexity_that_may_not_have_changed_says_so() -> None:
    windows = made_windows(20, 64, seed=3)
    windows = [
        drift.WindowDrift(w.kl, w.same_top, w.top5, w.logit_abs, w.nll_reference, w.nll_candidate - 0.001)
        for w in windows
    ]
    summary = drift.summarize(windows)
    low, high = summary.intervals["ppl_ratio"]
    assert low < 1 < high
    assert summary.intervals["ppl_change"][0] == 0
    assert summary.intervals["ppl_change"][1] == pytest.approx(max(high - 1, 1 - low))


def test_ten_thousand_positions_take_no_time() -> None:
    windows = made_windows(20, 512)
    drift.summarize(windows)
    start = time.process_time()
    drift.summarize(windows)
    assert time.process_time() - start < 1.0  # 0.2 s on an idle core
