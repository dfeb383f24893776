"""Scales and zero points for ONNX Runtime's blocks of 4 and 8 bits, by the error that they leave.

An error counts by the importance of its column, the mean square of what it is multiplied with; all alike where nothing
is known. What ONNX Runtime's own quantizer takes is the first candidate, so that no block gets worse by this measure.
From each of several ranges, and of both signs where the layout is symmetric (its levels reach one step farther on one
side), one turn leads to the numbers that fit the levels best: scale and zero point, which is rounded, then the scale.
Scales are rounded to the file's type before their error is counted.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantize import nbits
from quantize.mlx_search import KINDS, TINY, costs_of, inverse_of, stored
from quantize.nbits_layout import Encoded, Layout
from quantize.simd import (
    LANES,
    fabs,
    gather,
    inlined,
    kernel,
    limited_level,
    load,
    maximum,
    minimum,
    splat,
    store,
    where,
    workspace,
)

RANGES = np.array([1.05, 0.97, 0.9, 0.82, 0.74, 0.66], np.float32)
"""The parts of a block's range that a search begins with."""


@inlined
def _error(x, w, n, scale, zero, top):
    """What is left of the values, weighed; and the scale that fits their levels best."""
    inverse = inverse_of(scale)
    total, along, square = splat(0), splat(0), splat(0)
    for i in range(n):
        value, weight = load(x, i * LANES), load(w, i * LANES)
        level = limited_level(value * inverse + zero, top) - zero
        off = level * scale - value
        total += weight * off * off
        of_level = weight * level
        along += of_level * value
        square += of_level * level
    fits = square > TINY
    return total, where(fits, along / where(fits, square, splat(1)), scale)


@inlined
def _line(x, w, n, scale, zero, top):
    """Scale and zero point, whole, of the line through the values at their levels: of least weighed squares."""
    inverse = inverse_of(scale)
    ones, q1, q2, x1, xq = splat(0), splat(0), splat(0), splat(0), splat(0)
    for i in range(n):
        value, weight = load(x, i * LANES), load(w, i * LANES)
        level = limited_level(value * inverse + zero, top)
        of_level = weight * level
        ones += weight
        q1 += of_level
        q2 += of_level * level
        x1 += weight * value
        xq += of_level * value
    spread = ones * q2 - q1 * q1
    slope = (ones * xq - q1 * x1) / where(spread > TINY, spread, splat(1))
    good = (spread > TINY) & (slope > TINY)
    slope = where(good, slope, where(fabs(scale) < TINY, splat(1), scale))
    crossing = (q1 - x1 / slope) / ones  # the level that is worth 0
    return where(good, slope, scale), where(good, limited_level(crossing, top), zero)


@kernel
def fit(flat, costs, columns, width, ranges, top, symmetric, kind, scales, zeros, first, last):
    """Scales and zero points of blocks first..last: of those that the `ranges` lead to, those of the least error.

    `flat` holds the blocks one behind the other, `costs` a row's `columns` costs and as many more as LANES blocks
    reach. `scales` and `zeros` hold a candidate that is kept where nothing is better, and afterwards what was found.
    LANES blocks at a time, the last ones some of them once more.
    """
    x, w = workspace(width), workspace(width)
    middle = (top + np.float32(1)) / np.float32(2)
    for at in range(first, last, LANES):
        place = min(at, last - LANES)
        gather(flat, place * width, width, width, x)
        gather(costs, place * width % columns, width, width, w)
        low, high = splat(0), splat(0)
        for i in range(width):
            value = load(x, i * LANES)
            low, high = minimum(low, value), maximum(high, value)
        best_scale, best_zero = stored(load(scales, place), kind), load(zeros, place)
        best, _ = _error(x, w, width, best_scale, best_zero, top)
        far = maximum(high, -low)
        for t in range(ranges.size):
            for side in range(2 if symmetric else 1):
                if symmetric:
                    sign = np.float32(1) if side == 0 else np.float32(-1)
                    scale, zero = far * (sign * ranges[t] / middle), splat(middle)
                else:
                    scale = maximum((high - low) * (ranges[t] / top), splat(TINY))
                    zero = limited_level((-low * ranges[t]) * inverse_of(scale), top)
                    scale, zero = _line(x, w, width, scale, zero, top)
                for _turn in range(2):
                    scale = stored(scale, kind)
                    error, fitting = _error(x, w, width, scale, zero, top)
                    less = error < best
                    best_scale, best_zero = where(less, scale, best_scale), where(less, zero, best_zero)
                    best = minimum(error, best)
                    scale = fitting
        store(scales, place, best_scale)
        store(zeros, place, best_zero)


def searched(values: np.ndarray, layout: Layout, weights: np.ndarray | None = None, threads: int = 1) -> Encoded:
    """float32 `values` (rows, columns) with the scales and zero points of the least error found.

    `weights` (columns,): what a squared error of a column costs.
    """
    whole = nbits.filled(values, layout)
    costs = costs_of(weights, values.shape[1])
    scales, zeros = best_scales(whole, layout, np.pad(costs, (0, whole.shape[1] - len(costs))), threads)
    return nbits.nearest(values, layout, scales, zeros, threads)


def best_scales(whole: np.ndarray, layout: Layout, costs: np.ndarray, threads: int) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points, float32 (rows, blocks), of values (rows, blocks * block_size); `costs` one a column."""
    width, columns = layout.block_size, whole.shape[1]
    scales, zeros = nbits.plain_scales(whole, layout, threads)
    flat = whole.reshape(-1)
    if more := max(0, LANES - scales.size):  # of so small a matrix: rows of zeros
        flat = np.concatenate([flat, np.zeros(more * width, np.float32)])
    found = [np.concatenate([part.reshape(-1), np.ones(more, np.float32)]) for part in (scales, zeros)]
    reach = np.resize(np.asarray(costs, np.float32), columns + LANES * width)
    arrays = flat, reach, columns, width, RANGES, np.float32(layout.top), layout.symmetric, KINDS[layout.scales]
    groups = found[0].size
    each = max(LANES, -(-groups // max(threads, 1)))
    parts = [(at, groups if groups - at < 2 * each else at + each) for at in range(0, groups - each + 1, each)]

    def work(part: tuple[int, int]) -> None:
        fit(*arrays, *found, *part)

    if len(parts) == 1:
        work(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(work, parts))
    return found[0][: scales.size].reshape(scales.shape), found[1][: scales.size].reshape(scales.shape)
