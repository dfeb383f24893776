"""What types cost: against the sums written out, of all rows and of a sample of them."""

from __future__ import annotations

import numpy as np
import pytest

from convert.model import sensitivity
from convert.model.sensitivity import Candidate, Matrix, Weighing, cost, costs, sample


def halves(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """A grid of halves; with weights, those of columns that count for nothing are lost."""
    found = np.round(values * 2) / 2
    return found if weights is None else found * (weights > 0)


HALVES = Candidate("halves", halves, 32)
EXACT = Candidate("BF16", lambda values, weights: values)


def matrix_of(draw: np.random.Generator, experts: int, outputs: int, columns: int, **words: object) -> Matrix:
    values = draw.normal(size=(experts * outputs, columns)).astype(np.float32)
    weighing = Weighing(
        draw.gamma(0.3, size=(experts, outputs)).astype(np.float32),
        draw.gamma(1, size=(experts, columns)).astype(np.float32),
        {32: draw.gamma(1, 1e-5, size=(experts, columns)).astype(np.float32)},
    )
    words = {"weighings": (weighing,), "candidates": (HALVES, EXACT), **words}
    return Matrix("w", experts, outputs, columns, lambda places: values[places], **words)  # type: ignore[arg-type]


@pytest.mark.parametrize("experts", [1, 3])
def test_the_cost_is_the_sum_over_rows_and_columns(experts: int) -> None:
    matrix = matrix_of(np.random.default_rng(0), experts, 24, 64)
    values = matrix.rows_of(np.arange(experts * 24)).astype(np.float64)
    (one,) = matrix.weighings
    assert one.rows is not None
    wanted = noise = 0.0
    for row, w in enumerate(values):
        e, r = divmod(row, 24)
        d = np.round(w * 2) / 2 - w
        wanted += one.rows[e, r] * (d**2 * one.squares[e]).sum() / 2
        noise += one.rows[e, r] * (w**2 * one.rounding[32][e]).sum() / 2
    found = cost(matrix)
    assert found["halves"] == pytest.approx(wanted + noise, rel=1e-5)
    assert 0 < found["BF16"] < 1e-4 * wanted


def test_experts_are_encoded_with_their_own_importance() -> None:
    importance = np.ones((2, 64), np.float32)
    plain = cost(matrix_of(np.random.default_rng(2), 2, 24, 64, importance=importance))
    importance[1] = 0
    assert cost(matrix_of(np.random.default_rng(2), 2, 24, 64, importance=importance))["halves"] > 2 * plain["halves"]


def test_a_sample_comes_near_the_whole_also_where_few_rows_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(5):
        draw = np.random.default_rng(seed)
        matrix = matrix_of(draw, 2, 3000, 64)
        whole = cost(matrix)
        with monkeypatch.context() as patched:
            patched.setattr(sensitivity, "SAMPLE_VALUES", 500 * 64)
            places, share = sample(matrix)
            assert 480 <= len(places) <= 520
            assert share.sum() == pytest.approx(6000, rel=0.25)
            assert cost(matrix)["halves"] == pytest.approx(whole["halves"], rel=0.05)


def test_where_nothing_is_known_of_outputs_a_cost_is_a_share_of_what_the_matrix_gives() -> None:
    draw = np.random.default_rng(3)
    squares = draw.gamma(1, size=(1, 64)).astype(np.float32)
    matrix = matrix_of(draw, 1, 24, 64, weighings=(Weighing(None, squares),))
    values = matrix.rows_of(np.arange(24))
    lost = ((np.round(values * 2) / 2 - values) ** 2 * squares).sum() / 2
    assert cost(matrix)["halves"] == pytest.approx(lost / (values**2 * squares).sum(), rel=1e-5)


def test_a_tied_head_costs_as_both() -> None:
    draw = np.random.default_rng(4)
    one, other = (matrix_of(draw, 1, 24, 64).weighings[0] for _ in range(2))
    found = [
        cost(matrix_of(np.random.default_rng(5), 1, 24, 64, weighings=w)) for w in ((one,), (other,), (one, other))
    ]
    assert found[2]["halves"] == pytest.approx(found[0]["halves"] + found[1]["halves"])


def test_matrices_come_in_their_order() -> None:
    draw = np.random.default_rng(6)
    seen: list[str] = []
    matrices = [matrix_of(draw, 1, 8, 32) for _ in range(7)]
    found = list(costs(matrices, seen.append))
    assert [kinds for _, kinds in found] == [cost(matrix) for matrix in matrices]
    assert seen == ["w"] * 7
