"""Drift and perplexity against formulas written the plain way, and what must never be a pass."""

from __future__ import annotations

import math

import numpy as np
import pytest

from validate import drift
from validate.perplexity import perplexity


@pytest.fixture
def logits() -> tuple[np.ndarray, np.ndarray, list[int]]:
    rng = np.random.default_rng(0)
    reference = (rng.standard_normal((37, 51)) * 3).astype(np.float32)
    candidate = reference + (rng.standard_normal((37, 51)) * 0.2).astype(np.float32)
    return reference, candidate, rng.integers(0, 51, 37).tolist()


def probabilities(row: np.ndarray) -> list[float]:
    weights = [math.exp(float(x) - float(row.max())) for x in row]
    return [w / sum(weights) for w in weights]


def test_every_number_is_what_the_plain_formula_gives(logits: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, candidate, tokens = logits
    p = [probabilities(row) for row in reference]
    q = [probabilities(row) for row in candidate]
    kl = [sum(a * math.log(a / b) for a, b in zip(x, y, strict=True)) for x, y in zip(p, q, strict=True)]
    change = [q[i][t] - p[i][t] for i, t in enumerate(tokens[1:])]
    nll = [[-math.log(side[i][t]) for i, t in enumerate(tokens[1:])] for side in (p, q)]

    window = drift.compare(reference, candidate, tokens)
    got, ppl = drift.summarize([window]), perplexity([window])

    assert got.positions == 37
    assert got.kl_mean == pytest.approx(sum(kl) / 37)
    assert got.kl_median == pytest.approx(sorted(kl)[18])
    assert got.kl_max == pytest.approx(max(kl))
    assert sorted(kl)[-2] <= got.kl_p99 <= max(kl)
    assert got.top1 == sum(max(a) == a[b.index(max(b))] for a, b in zip(p, q, strict=True)) / 37
    assert got.p_rms == pytest.approx(math.sqrt(sum(c * c for c in change) / 36))
    assert got.logit_max_abs == pytest.approx(float(np.abs(candidate - reference).max()))
    assert ppl.ppl_reference == pytest.approx(math.exp(sum(nll[0]) / 36))
    assert ppl.ppl == pytest.approx(math.exp(sum(nll[1]) / 36))
    assert ppl.ppl_ratio == pytest.approx(ppl.ppl / ppl.ppl_reference)
    differences = np.subtract(nll[1], nll[0])
    blocks = [differences[i : i + 4] - differences.mean() for i in range(0, 36, 4)]
    between = math.sqrt(sum(b.sum() ** 2 for b in blocks) * 9 / 8) / 36
    alone = differences.std(ddof=1) / 6
    assert ppl.ppl_ratio_se == pytest.approx(ppl.ppl_ratio * max(between, alone))


def test_the_interval_holds_the_mean_in_95_of_100_though_neighbours_are_alike() -> None:
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((1000, 8, 256))
    for i in range(1, 256):
        noise[:, :, i] += 0.7 * noise[:, :, i - 1]  # a hard passage is hard for a while
    held = np.mean([abs(text.mean()) <= drift.ci95(list(text)) for text in noise])
    naive = np.mean([abs(text.mean()) <= 1.96 * text.std() / 2048**0.5 for text in noise])
    assert 0.93 <= held <= 0.97
    assert naive < 0.7


@pytest.mark.parametrize(("freedom", "quantile"), [(7, 2.3646), (8, 2.3060), (20, 2.0860), (63, 1.9983), (10**6, 1.96)])
def test_quantiles_of_students_t(freedom: int, quantile: float) -> None:
    assert drift._t975(freedom) == pytest.approx(quantile, abs=1e-3)


def test_one_position_has_no_interval() -> None:
    assert drift.ci95([np.ones(1)]) == math.inf
    assert drift.ci95([]) == math.inf
    assert 0 < drift.ci95([np.array([1.0, 2.0])]) < math.inf


def test_chunks_and_windows_change_nothing(
    logits: tuple[np.ndarray, np.ndarray, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, candidate, tokens = logits
    whole = drift.compare(reference, candidate, tokens)
    monkeypatch.setattr(drift, "CHUNK_VALUES", 51 * 5)
    for name, values in vars(drift.compare(reference, candidate, tokens)).items():
        np.testing.assert_allclose(values, getattr(whole, name), rtol=1e-12)


def test_equal_logits_do_not_drift(logits: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, _, tokens = logits
    window = drift.compare(reference, reference.copy(), tokens)
    got = drift.summarize([window])
    assert (got.kl_mean, got.kl_max, got.top1, got.logit_max_abs) == (0.0, 0.0, 1.0, 0.0)
    assert perplexity([window]).ppl_ratio == 1.0


def test_a_drift_far_below_float32_is_measured() -> None:
    reference = np.random.default_rng(1).standard_normal((8, 4000)).astype(np.float32)
    candidate = reference * np.float32(1 + 1e-4)
    got = drift.summarize([drift.compare(reference, candidate, [0] * 8)])
    assert 4e-9 < got.kl_mean < 6e-9  # half of Var(logits) * 1e-8


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_not_finite_is_refused_and_found(
    logits: tuple[np.ndarray, np.ndarray, list[int]], value: float, side: int
) -> None:
    logits[side][20, 7] = value
    who = ("reference", "candidate")[side]
    with pytest.raises(drift.NotComparable, match=f"{who}'s logits are not finite: 1 of 51 values at position 20"):
        drift.compare(*logits)


def test_another_vocabulary_is_refused(logits: tuple[np.ndarray, np.ndarray, list[int]]) -> None:
    reference, candidate, tokens = logits
    with pytest.raises(drift.NotComparable, match=r"shape \(37, 50\), the reference's \(37, 51\)"):
        drift.compare(reference, candidate[:, :-1], tokens)


def test_nothing_measured_is_no_result() -> None:
    with pytest.raises(drift.NotComparable):
        drift.summarize([])
    with pytest.raises(drift.NotComparable):
        perplexity([])
