"""AWQ's factors: what they win, where they are folded, and that folding changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.awq import find_factors, fold
from quantize.gptq import NORMAL, PLAIN, Effort, Inputs, quantize
from quantize.grids import Grid

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
COLUMNS = 128
SIZES = RNG.lognormal(0, 1.2, COLUMNS).astype(np.float32)
X = (RNG.normal(size=(1024, COLUMNS)) * SIZES).astype(np.float32)
GRAM = (X.T @ X / len(X)).astype(np.float32)
WEIGHTS = [RNG.normal(size=(rows, COLUMNS)).astype(np.float32) * 0.02 for rows in (64, 32)]


def test_inputs_of_unlike_size_are_worth_factors() -> None:
    inputs, grid = Inputs(GRAM), Grid(4, 32, symmetric=False)
    factors = find_factors(WEIGHTS, inputs, grid, PLAIN)
    scaled = quantize(WEIGHTS[0], inputs, grid, PLAIN, factors)
    assert scaled.loss < 0.8 * quantize(WEIGHTS[0], inputs, grid, PLAIN).loss
    error = X @ (scaled.dequantized() / factors - WEIGHTS[0]).T  # what a reader computes: norm / c, then W * c
    assert scaled.loss == pytest.approx(np.square(error).mean(), rel=1e-3)


@pytest.mark.parametrize("effort", [PLAIN, NORMAL, Effort(0)])
def test_factors_never_cost_anything(effort: Effort) -> None:
    inputs, grid = Inputs(GRAM), Grid(3, 64)
    factors = find_factors(WEIGHTS, inputs, grid, effort)
    both = np.concatenate(WEIGHTS)
    assert quantize(both, inputs, grid, effort, factors).loss < 1.03 * quantize(both, inputs, grid, effort).loss
    assert factors.dtype == np.float32
    assert factors.max() * factors.min() == pytest.approx(1, rel=1e-4)


def test_inputs_alike_get_the_factor_one() -> None:
    inputs = Inputs(np.eye(COLUMNS, dtype=np.float32))
    assert np.array_equal(find_factors(WEIGHTS, inputs, Grid(4, 32), PLAIN), np.ones(COLUMNS, np.float32))


def test_columns_of_one_source_get_one_factor() -> None:
    """Four query heads read two value heads: o_proj's columns, by what v_proj's rows feed them."""
    heads = np.arange(COLUMNS).reshape(4, -1)
    source = (heads % heads.shape[1] + heads.shape[1] * (np.arange(4)[:, None] // 2)).reshape(-1)
    factors = find_factors(WEIGHTS, Inputs(GRAM), Grid(4, 32), PLAIN, source)
    per_source = [np.unique(factors[source == at]) for at in range(source.max() + 1)]
    assert all(len(found) == 1 for found in per_source)
    assert len(np.unique(factors)) > 32


def test_a_dead_input_has_a_factor_that_can_be_divided_by() -> None:
    gram = GRAM.copy()
    gram[5], gram[:, 5] = 0, 0
    factors = find_factors(WEIGHTS, Inputs(gram), Grid(4, 32), PLAIN)
    assert np.isfinite(1 / factors).all()
    assert (factors > 0).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_norm_takes_what_the_weight_gave_to_the_last_bit(dtype: str) -> None:
    norm = RNG.uniform(0.1, 3, COLUMNS).astype(np.float32)
    norm[7] = 0
    factors, folded = fold(SIZES, norm, dtype)
    kept = (
        torch.from_numpy(folded)
        .to({"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype])
        .float()
        .numpy()
    )
    assert np.array_equal(kept, folded)
    assert np.allclose(folded * factors, norm, rtol=2e-7, atol=0)
    assert np.allclose(np.delete(factors, 7), np.delete(SIZES, 7), rtol=2**-8)
    assert (factors[7], folded[7]) == (1, 0)


def test_what_feeds_a_weight_is_divided_in_its_scales() -> None:
    made = quantize(WEIGHTS[0], Inputs(GRAM), Grid(4, 32))
    by = np.exp(RNG.normal(size=64)).astype(np.float32)
    divided = made.divided(by)
    assert np.array_equal(divided.integers, made.integers)
    assert np.allclose(divided.dequantized(), made.dequantized() / by[:, None], rtol=1e-3, atol=1e-7)
