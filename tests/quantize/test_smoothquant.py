"""Factors that move outliers from inputs into weights, and leave the product."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.integers import decode, round_to, symmetric_scales
from quantize.smoothquant import column_maxima, relieved, smooth_factors, smoothed


def test_by_the_papers_example() -> None:
    """Xiao et al., figure 5: maxima 2 16 4 3 of the inputs' channels and 2 1 4 3 of the weights', alpha 0.5."""
    factors = smooth_factors(np.array([1, 16, 2, 3]), [np.array([1, 1, 2, 3])])
    np.testing.assert_allclose(factors, [1, 4, 1, 1])


def test_alpha_says_who_bears_it() -> None:
    inputs, weights = np.array([8.0, 1.0]), [np.array([2.0, 2.0])]
    np.testing.assert_allclose(smooth_factors(inputs, weights, 1), inputs)
    np.testing.assert_allclose(smooth_factors(inputs, weights, 0), [0.5, 0.5])


def test_several_matrices_share_the_factors_and_a_dead_input_is_left_alone() -> None:
    inputs = np.array([4.0, 0.0, 9.0])
    factors = smooth_factors(inputs, [np.array([1.0, 1.0, 0.0]), np.array([4.0, 1.0, 0.0])])
    np.testing.assert_allclose(factors[:2], [1, 1])
    assert np.isfinite(factors).all()
    assert (factors > 0).all()


@pytest.mark.parametrize(
    ("inputs", "weights", "alpha", "said"),
    [
        (np.ones(3), [np.ones(3)], 1.5, "alpha is 1.5"),
        (np.ones(3), [np.ones(4)], 0.5, "for inputs of"),
        (np.ones(3), [], 0.5, "none"),
    ],
)
def test_what_does_not_fit_is_told(inputs: np.ndarray, weights: list[np.ndarray], alpha: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        smooth_factors(inputs, weights, alpha)


def in_eight_bits(values: np.ndarray) -> np.ndarray:
    scales = symmetric_scales(values, 8, values.shape[1])
    return decode(round_to(values, scales, 8, values.shape[1]), scales, values.shape[1])


def test_the_product_stays_and_loses_less_in_eight_bits() -> None:
    rng = np.random.default_rng(0)
    norm = np.ones(256, np.float32)
    norm[[3, 70]] = 60  # what makes outliers of two inputs
    hidden = rng.standard_normal((64, 256)).astype(np.float32)
    weights = [rng.standard_normal((96, 256)).astype(np.float32) / 16 for _ in range(2)]
    inputs = hidden * norm
    factors = smooth_factors(np.abs(inputs).max(0), [column_maxima(w) for w in weights])
    smooth_inputs = hidden * relieved(norm, factors)
    for weight in weights:
        product = inputs @ weight.T
        np.testing.assert_allclose(smooth_inputs @ smoothed(weight, factors).T, product, atol=1e-3)
        plain = in_eight_bits(inputs) @ in_eight_bits(weight).T
        smooth = in_eight_bits(smooth_inputs) @ in_eight_bits(smoothed(weight, factors)).T
        assert np.abs(smooth - product).mean() < 0.5 * np.abs(plain - product).mean()
