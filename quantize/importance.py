"""Importance weights for the searches: one number a column, mixed with how large the row's values are.

ggml weighs the error of a value x in column j by weights[j] * sqrt(sigma2 + x * x), sigma2 a mean square over the row
or the super-block (ggml-quants.c, the quantize_row_*_impl functions).
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.simd import LANES, gather, inlined, kernel, load, splat, sqrt, store

BLOCK = 32  # values
SCRATCH = BLOCK * LANES  # floats of LANES blocks


@kernel
def _sums_of_squares(flat, run, sums):
    """sums[k]: the squares of the `run` values from flat[k * run] on, added in order. `run` is a multiple of 32."""
    lanes = np.empty(SCRATCH, np.float32)
    done = 0 if sums.size < LANES else sums.size
    for group in range(0, done, LANES):
        first = min(group, sums.size - LANES)  # one run a lane; the last lanes sum some runs once more
        total = splat(0)
        for start in range(0, run, BLOCK):
            gather(flat, first * run + start, run, BLOCK, lanes)
            for i in range(0, SCRATCH, LANES):
                value = load(lanes, i)
                total += value * value
        store(sums, first, total)
    for k in range(done, sums.size):  # less than LANES
        total = np.float32(0)
        for i in range(k * run, (k + 1) * run):
            total += flat[i] * flat[i]
        sums[k] = total


@inlined
def weigh(weights, sigma2, first, values, out):
    """Fills out[i * LANES + k] with the weight of value i of block first + k, which stands in `values` at that place.

    `weights` is what `repeated` gives, `sigma2` what `mean_squares` gives.
    """
    mean = load(sigma2, first)
    gather(weights, first * BLOCK % (weights.size - SCRATCH), BLOCK, BLOCK, out)
    for i in range(0, SCRATCH, LANES):
        value = load(values, i)
        store(out, i, load(out, i) * sqrt(mean + value * value))


def mean_squares(flat: np.ndarray, run: int, scaled: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """float32, one for every block of `flat`: `scaled` of the sum of the squares of the `run` values it belongs to."""
    sums = np.empty(flat.size // run, np.float32)
    _sums_of_squares(flat, run, sums)
    return np.repeat(scaled(sums), run // BLOCK)


def repeated(weights: np.ndarray, n: int) -> np.ndarray:
    """A row's weights (n,) and, for lanes that reach into the next rows, LANES blocks more from its beginning again."""
    if weights.shape != (n,):
        raise ValueError(f"{weights.size} weights for rows of {n} values; there is one for each column")
    return np.resize(np.asarray(weights, np.float32), n + SCRATCH)


def padded(values: np.ndarray) -> np.ndarray:
    """The float32 `values` (rows, n) in one row, and rows of zeros where there are less than LANES blocks."""
    rows, n = values.shape
    wanted = -(-SCRATCH // n)
    if rows < wanted:
        values = np.concatenate([values, np.zeros((wanted - rows, n), np.float32)])
    return np.ascontiguousarray(values, np.float32).reshape(-1)
