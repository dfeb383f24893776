"""SmoothQuant: outliers of the inputs are moved into the weights, so that both can be rounded to 8 bits.

    y = x W.T = (x / s) (W s).T        s_j = max|x_j| ** alpha / max|W_j| ** (1 - alpha)

The norm in front of the matrices is divided by s, their columns are multiplied by it: the model is the same. Source:
Xiao et al., "SmoothQuant", 2023, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LEAST = 1e-5  # what a maximum counts as at least, as in the authors' code: a dead channel is left alone


def smooth_factors(inputs: np.ndarray, weights: Sequence[np.ndarray], alpha: float = 0.5) -> np.ndarray:
    """float32 (columns,): what the columns are multiplied by, and the inputs divided by; positive and finite.

    `inputs` (columns,) holds the largest absolute value of each input over the calibration data; each of `weights`
    (columns,) that of each column of a matrix that reads these inputs: q, k and v, or gate and up. `alpha` says how
    much of the difficulty goes to the weights: 0 nothing, 1 all. ValueError where lengths or alpha do not fit.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}, it is from 0 to 1")
    if not weights or any(np.shape(top) != np.shape(inputs) for top in weights):
        shapes = ", ".join(str(np.shape(top)) for top in weights)
        raise ValueError(f"maxima of weights of the shapes {shapes or 'none'} for inputs of {np.shape(inputs)}")
    top_in = np.maximum(np.asarray(inputs, np.float64), LEAST)
    top_weight = np.maximum(np.max([np.asarray(top, np.float64) for top in weights], axis=0), LEAST)
    factors = np.maximum(top_in**alpha / top_weight ** (1 - alpha), LEAST)
    return np.asarray(np.where(np.asarray(inputs) > 0, factors, 1), np.float32)


def column_maxima(matrix: np.ndarray) -> np.ndarray:
    """float32 (columns,): the largest absolute value of each column, as `smooth_factors` takes it."""
    return np.asarray(np.abs(matrix).max(axis=0, initial=0.0), np.float32)


def smoothed(matrix: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The matrix (rows, columns) with its columns multiplied."""
    return np.asarray(matrix * factors)


def relieved(norm: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """The weight (or bias) of the norm in front, divided: it gives inputs that much smaller."""
    return np.asarray(norm / factors)
