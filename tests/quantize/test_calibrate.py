"""Sums of squares: exact, whatever the order and the batches, in memory that does not grow."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from quantize.calibrate import SquareSums


def inputs(tokens: int, columns: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return (draw.standard_normal((tokens, columns)) * np.exp(3 * draw.standard_normal(columns))).astype(np.float32)


def exact(rows: np.ndarray) -> np.ndarray:
    """By Python's whole-number arithmetic: squares and sums without any rounding, rounded once."""
    from fractions import Fraction

    columns = [[Fraction(float(value)) ** 2 for value in column] for column in rows.T]
    return np.array([float(sum(column)) for column in columns], np.float64).astype(np.float32)


def test_the_sums_are_those_of_exact_arithmetic() -> None:
    rows = inputs(300, 7)
    sums = SquareSums(7)
    sums.add(rows)
    np.testing.assert_array_equal(sums.values(), exact(rows)[None])
    assert sums.counts.tolist() == [300]


def test_neither_batches_nor_order_leave_a_trace() -> None:
    rows = inputs(500, 40)
    whole, parts = SquareSums(40), SquareSums(40)
    whole.add(rows)
    for part in np.array_split(rows[::-1], 23):
        parts.add(part)
    np.testing.assert_array_equal(whole.values(), parts.values())
    assert whole.counts.tolist() == parts.counts.tolist() == [500]


def test_every_expert_has_its_own() -> None:
    sums = SquareSums(5, experts=4)
    sums.add(inputs(10, 5, 1), expert=2)
    sums.add(inputs(3, 5, 2), expert=0)
    sums.add(inputs(0, 5), expert=3)
    assert sums.counts.tolist() == [3, 0, 10, 0]
    np.testing.assert_array_equal(sums.values()[[1, 3]], 0)
    np.testing.assert_array_equal(sums.values()[2], exact(inputs(10, 5, 1)))


def test_what_float32_cannot_hold_becomes_its_largest() -> None:
    sums = SquareSums(2)
    sums.add(np.array([[1e20, 1]], np.float32))
    assert sums.values().tolist() == [[np.finfo(np.float32).max, 1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused(bad: float) -> None:
    rows = inputs(100, 3)
    rows[99, 1] = bad
    with pytest.raises(ValueError, match="not finite"):
        SquareSums(3).add(rows)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (1, 4, 2)])
def test_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 columns"):
        SquareSums(2).add(np.ones(shape, np.float32))


def test_memory_is_that_of_the_sums_and_a_few_rows() -> None:
    rows = inputs(4096, 2048)  # 32 MiB
    sums = SquareSums(2048)
    tracemalloc.start()
    try:
        sums.add(rows)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20
