"""Kernels that quantize a matrix column by column, many rows side by side.

Everything stands columns first, (columns, rows), so that what is done to a column is done to neighbours in memory: the
compiler makes vectors of it. A kernel takes the rows from `first` to `last`, and no row knows of another: threads
share the rows out (`side_by_side`).

    values   float32 (columns, rows)   the weights, or what of their error is left to a column
    steps    float32 (columns, rows)   the scale of each weight; negative ones are as good
    zeros    float32 (columns, rows)   its zero point
    levels   float32 (columns, rows)   whole numbers 0..top; a weight is step * (level - zero)
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantize.simd import inlined, kernel

TILE = 64
"""Rows that are worked on together: a block of 64 columns of them stays in the first cache."""


def side_by_side(work: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Calls `work(first, last)` for parts of the rows, one a thread, and returns when all are done."""
    each = -(-rows // (max(threads, 1) * TILE)) * TILE
    parts = [(at, min(at + each, rows)) for at in range(0, rows, each)]
    if len(parts) == 1:
        work(*parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(lambda part: work(*part), parts))


@inlined
def _level(value, top):
    return min(max(np.rint(value), np.float32(0)), top)


@kernel
def carry(values, steps, zeros, upper, top, levels, errors, first, last):
    """GPTQ within a block of columns: each is rounded and its error carried into those after it.

    `upper` is the block's part of the upper Cholesky factor of the Gram matrix's inverse. `values` is changed to what
    each column was when its turn came; `levels` and `errors` (over the diagonal, for the columns of later blocks) are
    written.
    """
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for j in range(len(values)):
            own = np.float32(1) / upper[j, j]
            value, step, zero = values[j, start:stop], steps[j, start:stop], zeros[j, start:stop]
            level, error = levels[j, start:stop], errors[j, start:stop]
            for i in range(stop - start):
                level[i] = _level(value[i] / step[i] + zero[i], top)
                error[i] = (value[i] - (level[i] - zero[i]) * step[i]) * own
            for k in range(j + 1, len(values)):
                factor, later = upper[j, k], values[k, start:stop]
                for i in range(stop - start):
                    later[i] -= factor * error[i]


@kernel
def descend(gradient, gram, steps, top, levels, moves, first, last):
    """One turn of coordinate descent within a block: every level goes where the error is least, all others given.

    `gradient` is the block's part of gram @ (quantized - weight) and is used up; `levels` are changed; `moves` gets by
    how much each weight changed.
    """
    for start in range(first, last, TILE):
        stop = min(start + TILE, last)
        for j in range(len(gradient)):
            own = np.float32(1) / gram[j, j]
            slope, step = gradient[j, start:stop], steps[j, start:stop]
            level, move = levels[j, start:stop], moves[j, start:stop]
            for i in range(stop - start):
                new = _level(level[i] - slope[i] * own / step[i], top)
                move[i] = (new - level[i]) * step[i]
                level[i] = new
            for k in range(j + 1, len(gradient)):
                factor, later = gram[j, k], gradient[k, start:stop]
                for i in range(stop - start):
                    later[i] += factor * move[i]


@kernel
def search(values, weights, parts, top, symmetric, lowest, scales, zeros, first, last):
    """Scale and zero point of one group of columns: of the ranges tried the one with the least weighted error.

    `weights` (columns, 1) say what a squared error of a column costs; `parts` are the parts of the full range to try.
    Symmetric: the zero point is the middle and the scale has the sign that gives the value farthest from 0 the level
    0, which is one farther out than `top`. Else the zero point is at least `lowest`.
    `scales` and `zeros` (rows,) are written; scales are numbers that float16 has.
    """
    error, best = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    low, high = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    scale, zero, inverse = np.empty(TILE, np.float32), np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    for start in range(first, last, TILE):
        n = min(start + TILE, last) - start
        _ends(values, start, n, low, high)
        best[:n] = np.inf
        for t in range(len(parts)):
            _try_range(low, high, parts[t], top, symmetric, lowest, n, scale, zero)
            inverse[:n] = np.float32(1) / scale[:n]
            error[:n] = 0
            for j in range(len(values)):
                value = values[j, start : start + n]
                weight = weights[j, 0]
                for i in range(n):
                    off = (_level(value[i] * inverse[i] + zero[i], top) - zero[i]) * scale[i] - value[i]
                    error[i] += weight * off * off
            for i in range(n):
                if error[i] < best[i]:
                    best[i], scales[start + i], zeros[start + i] = error[i], scale[i], zero[i]


@inlined
def _ends(values, start, n, low, high):
    low[:n] = 0
    high[:n] = 0
    for j in range(len(values)):
        value = values[j, start : start + n]
        for i in range(n):
            low[i] = min(low[i], value[i])
            high[i] = max(high[i], value[i])


SMALLEST = np.float32(2.0**-24)
"""The smallest positive float16: no scale is nearer to 0."""

_LARGEST, _NORMAL, _SPLIT = np.float32(65504), np.float32(2.0**-14), np.float32(2**13 + 1)


@inlined
def half(value):
    """The nearest number that float16 has, but none nearer to 0 than `SMALLEST`, and no infinity."""
    size = min(abs(value), _LARGEST)
    lifted = size * _SPLIT  # 13 of 24 bits fall off: 11 are left, as float16 has
    rounded = lifted - (lifted - size) if size >= _NORMAL else np.rint(size / SMALLEST) * SMALLEST
    rounded = min(max(rounded, SMALLEST), _LARGEST)
    return -rounded if value < 0 else rounded


@inlined
def _try_range(low, high, factor, top, symmetric, lowest, n, scale, zero):
    middle = (top + np.float32(1)) / np.float32(2)
    for i in range(n):
        if symmetric:
            far = low[i] if -low[i] > high[i] else high[i]
            scale[i] = -far * factor / middle
            zero[i] = middle
        else:
            scale[i] = (high[i] - low[i]) * factor / top
        scale[i] = half(scale[i])
        if not symmetric:
            zero[i] = min(max(np.rint(-low[i] * factor / scale[i]), lowest), top)
