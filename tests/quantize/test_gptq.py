"""GPTQ's arithmetic: its errors beside those of rounding, every grid, and inputs that are not as they should be."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from quantize import gptq, packing
from quantize.gptq import HIGH, NORMAL, PLAIN, Effort, Inputs, quantize
from quantize.grids import Grid, Quantized

torch = pytest.importorskip("torch")

ROWS, COLUMNS = 96, 256


def inputs_of(columns: int = COLUMNS, tokens: int = 1024, seed: int = 0) -> np.ndarray:
    """(tokens, columns) that hang together, some columns much larger than others: as in a model."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(tokens, columns // 4)) @ rng.normal(size=(columns // 4, columns))
    return ((mixed + rng.normal(size=mixed.shape)) * rng.lognormal(0, 0.7, columns)).astype(np.float32)


def gram_of(inputs: np.ndarray) -> np.ndarray:
    return (inputs.T @ inputs / len(inputs)).astype(np.float32)


INPUTS = inputs_of()
GRAM = gram_of(INPUTS)
WEIGHT = np.random.default_rng(1).standard_t(5, (ROWS, COLUMNS)).astype(np.float32) * np.float32(0.02)


def output_error(made: Quantized, weight: np.ndarray = WEIGHT, inputs: np.ndarray = INPUTS) -> float:
    """The mean over tokens and outputs of the squared error of an output."""
    return float(np.square(inputs @ (made.dequantized() - weight).T).mean())


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_errors_make_up_for_each_other(bits: int, symmetric: bool) -> None:
    """On inputs that it was not made with, GPTQ's outputs are nearer than those of rounding to nearest."""
    fresh, held = inputs_of(tokens=2048, seed=0)[1024:], inputs_of(tokens=2048, seed=0)[:1024]
    inputs, grid = Inputs(gram_of(held)), Grid(bits, 64, symmetric)
    plain, made = (quantize(WEIGHT, inputs, grid, effort) for effort in (PLAIN, NORMAL))
    assert output_error(made, inputs=fresh) < 0.7 * output_error(plain, inputs=fresh)


def test_the_loss_is_the_squared_error_of_an_output() -> None:
    made = quantize(WEIGHT, Inputs(GRAM), Grid(4, 64))
    assert made.loss == pytest.approx(output_error(made), rel=1e-3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_every_turn_of_descent_takes_error_away(symmetric: bool) -> None:
    inputs, grid = Inputs(GRAM), Grid(3, 32, symmetric)
    losses = [quantize(WEIGHT, inputs, grid, Effort(turns)).loss for turns in (0, 1, 2, 4, 16)]
    assert losses == sorted(losses, reverse=True)
    assert losses[3] < 0.97 * losses[0]
    assert quantize(WEIGHT, inputs, grid, HIGH).loss == losses[-1]


@pytest.mark.parametrize("group_size", [-1, 32, 64, 128])
@pytest.mark.parametrize("ordered", [False, True])
def test_groups_are_as_the_file_has_them(group_size: int, ordered: bool) -> None:
    made = quantize(WEIGHT, Inputs(GRAM), Grid(4, group_size, ordered=ordered))
    width = COLUMNS if group_size == -1 else group_size
    assert made.integers.shape == WEIGHT.shape
    assert made.integers.dtype == np.uint8
    assert made.scales.shape == made.zeros.shape == (ROWS, COLUMNS // width)
    assert made.scales.dtype == np.float16
    assert (made.zeros == 8).all()
    assert np.bincount(made.groups()).tolist() == [width] * (COLUMNS // width)
    if ordered:
        assert made.g_idx is not None
        assert made.g_idx.dtype == np.int32
        important = np.argsort(-GRAM.diagonal(), kind="stable")
        assert (np.diff(made.groups()[important]) >= 0).all()
    else:
        assert made.g_idx is None
    assert output_error(made) < 0.05 * np.square(INPUTS @ WEIGHT.T).mean()


def test_a_smaller_group_makes_a_smaller_error() -> None:
    losses = [quantize(WEIGHT, Inputs(GRAM), Grid(4, size, False)).loss for size in (-1, 128, 64, 32)]
    assert losses == sorted(losses, reverse=True)


def test_stacked_weights_are_what_they_are_alone() -> None:
    """To a whisker: a matrix product of other shapes may round a level the other way."""
    inputs, grid = Inputs(GRAM), Grid(4, 64)
    both = quantize(np.concatenate([WEIGHT, WEIGHT[:32] * 2]), inputs, grid)
    alone = quantize(WEIGHT, inputs, grid)
    first = both.rows(0, ROWS)
    assert (first.integers != alone.integers).mean() < 0.01
    assert output_error(first) == pytest.approx(output_error(alone), rel=0.01)


def test_threads_change_nothing_but_time() -> None:
    weight = np.concatenate([WEIGHT, WEIGHT[::-1]])
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made.append(quantize(weight, Inputs(GRAM), Grid(4, 64)))
    finally:
        torch.set_num_threads(before)
    assert (made[0].integers != made[1].integers).mean() < 0.01


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_matrix_of_zeros_stays_one(symmetric: bool) -> None:
    made = quantize(np.zeros((32, 64), np.float32), Inputs(GRAM[:64, :64]), Grid(4, 32, symmetric))
    assert not made.dequantized().any()
    assert np.isfinite(made.scales).all()
    assert made.scales.all()


def test_dead_columns_are_rounded_and_the_others_are_not_hurt() -> None:
    inputs = INPUTS.copy()
    inputs[:, [3, 64, 200]] = 0
    made = quantize(WEIGHT, Inputs(gram_of(inputs)), Grid(4, 64))
    off = np.abs(made.dequantized() - WEIGHT)[:, [3, 64, 200]]
    steps = np.abs(made.scales.astype(np.float32))[:, [0, 1, 3]]
    assert (off <= 3 * steps).all()
    assert output_error(made, inputs=inputs) < 1.1 * output_error(quantize(WEIGHT, Inputs(GRAM), Grid(4, 64)))


def test_inputs_that_were_never_seen_leave_rounding() -> None:
    made = quantize(WEIGHT, Inputs(np.zeros((COLUMNS, COLUMNS), np.float32)), Grid(8, 64))
    steps = np.repeat(np.abs(made.scales.astype(np.float32)), 64, 1)
    assert (np.abs(made.dequantized() - WEIGHT) <= steps).all()


def test_damping_is_raised_until_the_matrix_can_be_inverted() -> None:
    one = np.ones((64, 64), np.float32)  # of rank one
    one[0, 0] = 0.9  # and by rounding not even half definite
    inputs = Inputs(one, damp=0.0)
    assert inputs.damp > 0
    made = quantize(WEIGHT[:, :64], inputs, Grid(4, 32))
    assert np.isfinite(made.dequantized()).all()
    assert Inputs(GRAM).damp == gptq.DAMP


def test_arrays_stay_as_they_were_and_may_be_mapped_from_a_file() -> None:
    weight, gram = WEIGHT.copy(), GRAM.copy()
    weight.flags.writeable = gram.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantize(weight, Inputs(gram), Grid(4, 64))
    assert np.array_equal(weight, WEIGHT)
    assert np.array_equal(gram, GRAM)


def test_a_matrix_that_is_given_away_is_not_copied() -> None:
    gram = GRAM.copy()
    inputs = Inputs(gram, own=True)
    assert np.shares_memory(inputs.damped.numpy(), gram)
    assert np.allclose(inputs.diagonal.numpy(), GRAM.diagonal(), rtol=1e-4)
    assert quantize(WEIGHT, inputs, Grid(4, 64)).loss == quantize(WEIGHT, Inputs(GRAM), Grid(4, 64)).loss


def test_no_gram_matrix_has_a_negative_square() -> None:
    with pytest.raises(ValueError, match="not positive definite"):
        Inputs(np.diag([1.0, 1.0]).astype(np.float32) - np.float32(40) * (1 - np.eye(2, dtype=np.float32)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    weight = WEIGHT.copy()
    weight[5, 7] = value
    with pytest.raises(ValueError, match="row 5, column 7"):
        quantize(weight, Inputs(GRAM), Grid())
    gram = GRAM.copy()
    gram[2, 1] = value
    with pytest.raises(ValueError, match=r"Gram matrix has .* in row 2, column 1"):
        Inputs(gram)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no multiple of group_size 96"):
        quantize(WEIGHT, Inputs(GRAM), Grid(4, 96))
    with pytest.raises(ValueError, match="a weight of 128 columns for a Gram matrix of 256"):
        quantize(WEIGHT[:, :128], Inputs(GRAM), Grid())
    with pytest.raises(ValueError, match="square"):
        Inputs(GRAM[:8])
    with pytest.raises(ValueError, match="not 5"):
        Grid(5)
    with pytest.raises(ValueError, match="group_size"):
        Grid(4, 0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_what_is_packed_is_what_was_made(bits: int) -> None:
    made = quantize(WEIGHT, Inputs(GRAM), Grid(bits, 64, symmetric=False, lowest_zero=1))
    assert made.zeros.min() >= 1
    words, zeros = packing.gptq_weights(made.integers, bits), packing.gptq_zeros(made.zeros, bits, 1)
    assert np.array_equal(packing.gptq_integers(words, bits), made.integers)
    assert np.array_equal(packing.gptq_zero_points(zeros, bits, 1), made.zeros)


def test_symmetric_scales_take_the_sign_that_reaches_farther() -> None:
    """Level 0 is one farther from the middle than the highest: it goes to the value farthest from 0."""
    weight = np.full((32, 32), -0.1, np.float32)
    weight[:, 0] = 0.8
    made = quantize(weight, Inputs(np.eye(32, dtype=np.float32)), Grid(4, 32), PLAIN)
    assert (made.scales < 0).all()
    assert (made.integers[:, 0] == 0).all()
    assert np.abs(made.dequantized() - weight).max() < 1e-3
