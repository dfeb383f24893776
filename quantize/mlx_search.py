"""Better numbers than rounding to nearest, in MLX's layouts: scale and bias by the error that they leave.

An error counts by the importance of its column, the mean square of what it is multiplied with; all alike where nothing
is known. What `plain` makes is one of the candidates, so that no group gets worse by this measure. Scales and biases
are rounded to the file's type before levels are chosen: levels are made for what a reader computes with, where
`mx.quantize` rounds afterwards, which at 8 bits in bfloat16 is most of its error.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from quantize import e2m1, e4m3, mlx
from quantize.columns import side_by_side
from quantize.mlx_layout import AFFINE, Encoded, Layout
from quantize.simd import (
    LANES,
    bits,
    fabs,
    from_bits,
    from_float16,
    gather,
    inlined,
    kernel,
    limited_level,
    load,
    maximum,
    minimum,
    splat,
    store,
    to_float16,
    where,
    workspace,
)

PARTS = np.array([1.05 - 0.05 * k for k in range(11)], np.float32)
"""The parts of a group's range that a fit begins with."""
TURNS = 2
KINDS = {"F32": 0, "F16": 1, "BF16": 2}
TINY = np.float32(1e-20)
_BELOW, _TRIED = {"nvfp4": 2, "mxfp4": 1, "mxfp8": 1}, {"nvfp4": 8, "mxfp4": 3, "mxfp8": 3}


@inlined
def stored(value, kind):
    """The numbers that the type of the file has for lanes; `kind` as in KINDS."""
    if kind == 1:
        return from_float16(to_float16(minimum(maximum(value, splat(-65504)), splat(65504))))
    if kind == 2:
        word = bits(value)
        return from_bits((word + 0x7FFF + ((word >> 16) & 1)) & -0x10000)
    return value


@inlined
def inverse_of(scale):
    """1 / scale; 0 for one so small that all values of its group are equal."""
    return where(fabs(scale) < TINY, splat(0), splat(1) / where(fabs(scale) < TINY, splat(1), scale))


@inlined
def _error(x, w, n, scale, bias, top):
    inverse, total = inverse_of(scale), splat(0)
    for i in range(n):
        value = load(x, i * LANES)
        off = limited_level((value - bias) * inverse, top) * scale + bias - value
        total += load(w, i * LANES) * off * off
    return total


@kernel
def fit(flat, costs, columns, group, parts, turns, top, kind, scales, biases, first, last):
    """Scales and biases of groups first..last: of `parts` of the range, each refined, those of the least error.

    `flat` holds the groups one behind the other, `costs` a row's `columns` costs and as many more as LANES groups
    reach. `scales` and `biases` hold a candidate that is kept where nothing is better, and afterwards what the file
    can hold. LANES groups at a time, the last ones some of them once more.
    """
    x, w = workspace(group), workspace(group)
    for at in range(first, last, LANES):
        place = min(at, last - LANES)
        gather(flat, place * group, group, group, x)
        gather(costs, place * group % columns, group, group, w)
        low, high = load(x, 0), load(x, 0)
        for i in range(1, group):
            value = load(x, i * LANES)
            low, high = minimum(low, value), maximum(high, value)
        best_scale, best_bias = stored(load(scales, place), kind), stored(load(biases, place), kind)
        best = _error(x, w, group, best_scale, best_bias, top)
        for t in range(parts.size):
            scale = maximum((high - low) * (parts[t] / top), splat(TINY))
            bias = low + (high - low) * ((np.float32(1) - parts[t]) * np.float32(0.5))
            for _ in range(turns):  # the line through the values at their levels: of least weighted squares
                inverse = splat(1) / scale
                ones, q1, q2, x1, xq = splat(0), splat(0), splat(0), splat(0), splat(0)
                for i in range(group):
                    value, weight = load(x, i * LANES), load(w, i * LANES)
                    level = limited_level((value - bias) * inverse, top)
                    of_level = weight * level
                    ones += weight
                    q1 += of_level
                    q2 += of_level * level
                    x1 += weight * value
                    xq += of_level * value
                spread = ones * q2 - q1 * q1
                slope = (ones * xq - q1 * x1) / where(spread > TINY, spread, splat(1))
                better = (spread > TINY) & (slope > TINY)
                bias = where(better, (x1 - slope * q1) / ones, bias)
                scale = where(better, slope, scale)
            far = bias + scale * top
            nearer = fabs(far) < fabs(bias)  # the nearer end is rounded finer
            bias, scale = stored(where(nearer, far, bias), kind), stored(where(nearer, -scale, scale), kind)
            error = _error(x, w, group, scale, bias, top)
            better = error < best
            best_scale, best_bias = where(better, scale, best_scale), where(better, bias, best_bias)
            best = minimum(error, best)
        store(scales, place, best_scale)
        store(biases, place, best_bias)


@kernel
def _floats(values, weights, group, table, tried, eight, numbers, codes, first, last):
    """Adds to each of `codes`, a group's place in `table`, what makes it the best of the `tried` from there on."""
    for row in range(first, last):
        for place in range(codes.shape[1]):
            least, found = np.float32(np.inf), 0
            for k in range(tried):
                scale, error = table[codes[row, place] + k], np.float32(0)
                for column in range(place * group, (place + 1) * group):
                    value = values[row, column] / scale
                    code = e4m3.nearest(value) if eight else np.uint32(mlx._code(value))
                    off = numbers[code] * scale - values[row, column]
                    error += weights[column] * off * off
                if error < least:
                    least, found = error, k
            codes[row, place] += np.uint8(found)


def searched(
    values: np.ndarray, layout: Layout, dtype: str, weights: np.ndarray | None = None, threads: int = 1
) -> Encoded:
    """float32 `values` (rows, columns), numbers of the type `dtype`, with the scales of the least error found.

    `weights` (columns,): what a squared error of a column costs.
    """
    costs = costs_of(weights, values.shape[1])
    if layout.mode != AFFINE:
        return mlx.float_codes(values, layout, _float_scales(values, layout, dtype, costs, threads), dtype)
    return encoded(values, layout, *affine_scales(values, layout, dtype, costs, threads))


def encoded(values: np.ndarray, layout: Layout, scales: np.ndarray, biases: np.ndarray) -> Encoded:
    """The values at their nearest levels, of scales and biases (rows, groups) that the file can hold."""
    usable = np.where(np.abs(scales) < TINY, np.float32(1), scales)  # of a group of equal values: all are its bias
    return Encoded(mlx.pack(mlx.levels(values, layout, usable, biases), layout.bits), usable, biases)


def affine_scales(
    values: np.ndarray, layout: Layout, dtype: str, costs: np.ndarray, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases, float32 (rows, groups), of values (rows, columns); `costs` as `costs_of` gives them."""
    width, columns = layout.group_size, values.shape[1]
    scales, biases = mlx.ranges(values, layout)
    flat: np.ndarray = np.ascontiguousarray(values, np.float32).reshape(-1)
    if more := max(0, LANES - scales.size):  # of so small a matrix: rows of zeros
        flat = np.concatenate([flat, np.zeros(more * width, np.float32)])
    found = [np.concatenate([part.reshape(-1), np.ones(more, np.float32)]) for part in (scales, biases)]
    top, kind = np.float32((1 << layout.bits) - 1), KINDS[dtype]
    arrays = flat, np.resize(costs, columns + LANES * width), columns, width, PARTS, TURNS, top, kind, *found
    groups = found[0].size
    each = max(LANES, -(-groups // max(threads, 1)))
    parts = [(at, groups if groups - at < 2 * each else at + each) for at in range(0, groups - each + 1, each)]
    in_parallel(lambda part: fit(*arrays, *part), parts)
    return found[0][: scales.size].reshape(scales.shape), found[1][: scales.size].reshape(scales.shape)


def in_parallel(work: Callable[[tuple[int, int]], None], parts: Sequence[tuple[int, int]]) -> None:
    """`work` of each part, all at once."""
    if len(parts) == 1:
        work(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, parts))


def costs_of(weights: np.ndarray | None, columns: int) -> np.ndarray:
    """One a column, none zero: what was never seen must not be taken for worth nothing."""
    if weights is None:
        return np.ones(columns, np.float32)
    if weights.shape != (columns,):
        raise ValueError(f"{weights.size} weights for rows of {columns} values; there is one for each column")
    mean = float(weights.mean(dtype=np.float64)) or 1.0
    return np.asarray(np.maximum(weights / mean, 1e-4), np.float32)


def _float_scales(values: np.ndarray, layout: Layout, dtype: str, costs: np.ndarray, threads: int) -> np.ndarray:
    """uint8 (rows, groups): of those near the one that `plain` takes, the one of the least error."""
    codes = mlx.float_scales(values, layout, dtype)
    table = (e4m3.VALUES if layout.mode == "nvfp4" else e2m1.EXPONENTS)[: 127 if layout.mode == "nvfp4" else 255]
    tried = _TRIED[layout.mode]
    codes = np.clip(codes.astype(np.int32) - _BELOW[layout.mode], 1, len(table) - tried).astype(np.uint8)
    eight = layout.bits == 8
    numbers = np.nan_to_num(e4m3.VALUES) if eight else e2m1.VALUES
    arrays = np.ascontiguousarray(values), costs, layout.group_size, table, tried, eight, numbers, codes
    side_by_side(lambda at, end: _floats(*arrays, at, end), len(values), threads)
    return codes
