"""The block types from before the k-quants: 32 values that share one scale, and in Q4_1 and Q5_1 a minimum.

Without importance weights one formula gives the scale and a block is one vector (simd32). With them ggml searches for
the scale, block by block; here one block a lane (simd). Layouts, little-endian:

    Q4_0  d float16, 16 bytes: byte j holds level j in its low half, level j + 16 in its high half
    Q4_1  d, m float16, then the same
    Q5_0  d, 32 bits: the fifth bit of level j is bit j, then the same with the low four bits of each level
    Q5_1  d, m, then as Q5_0
    Q8_0  d, 32 int8
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.blocks import TYPES
from quantize.halves import half
from quantize.importance import BLOCK, SCRATCH, mean_squares, padded, repeated, weigh
from quantize.searches import affine_search, symmetric_search
from quantize.simd import LANES, gather, inlined, kernel, put_half, splat, store, to_float16, where
from quantize.simd32 import (
    as_float,
    away_from_zero,
    cut,
    fifth_bits,
    having_magnitude,
    highest,
    largest_magnitude,
    limited_levels,
    load_block,
    lowest,
    lowest_bit,
    nearest_levels,
    store_bytes,
    store_nibbles,
    store_uint16,
    store_uint32,
)

_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_FINITE = np.float32(np.finfo(np.float32).max)

Kernel = Callable[..., None]


def q4_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 18) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _encoded("Q4_0", _plain_symmetric, _searched_symmetric, values, weights)


def q4_1(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 20) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _encoded("Q4_1", _plain_affine, _searched_affine, values, weights)


def q5_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 22) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _encoded("Q5_0", _plain_symmetric, _searched_symmetric, values, weights)


def q5_1(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 24) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _encoded("Q5_1", _plain_affine, _searched_affine, values, weights)


def q8_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 34) of float32 `values` (rows, n), n a multiple of 32; `weights` change nothing."""
    return _encoded("Q8_0", _plain_q8_0, None, values, None)


def _encoded(
    name: str, plain: Kernel, searched: Kernel | None, values: np.ndarray, weights: np.ndarray | None
) -> np.ndarray:
    """The blocks of `values`, from one of two kernels."""
    (rows, n), kind, bits = values.shape, TYPES[name], int(name[1])
    out = np.empty((rows, kind.row_bytes(n)), np.uint8)
    if weights is None or searched is None:
        plain(np.ascontiguousarray(values, np.float32).reshape(-1), out.reshape(-1), bits)
        return out
    columns = repeated(weights, n)
    flat = padded(values)
    if flat.size > values.size:
        out = np.empty((flat.size // n, out.shape[1]), np.uint8)
    sigma2 = mean_squares(flat, n, lambda sums: sums / np.float32(n))
    searched(flat, columns, sigma2, out.reshape(-1), bits)
    return out[:rows]


# -- without importance weights ----------------------------------------------------------------------------------------


@inlined
def _inverse(scale):
    return np.float32(1) / scale if scale != 0 else np.float32(0)


@inlined
def _store_levels(out, at, levels, bits):
    """The fifth bits if there are any, then the low four, at `at`."""
    if bits == 5:
        store_uint32(out, at, fifth_bits(levels))
        at += 4
    store_nibbles(out, at, levels)


@kernel
def _plain_q8_0(x, out, bits):
    """Q8_0: x = d * q, d = max|x| / 127, q rounded to nearest, halves away from zero."""
    for block in range(x.size // BLOCK):
        values = load_block(x, BLOCK * block)
        scale = as_float(largest_magnitude(values)) / np.float32(127)
        inverse = _inverse(scale)
        # the inverse of a denormal overflows; ggml's x86 conversion of infinity to a byte is 0
        inverse = inverse if inverse <= _FINITE else np.float32(0)
        # C's roundf: the largest number below a half, added away from zero, then cut off
        rounded = away_from_zero(values * inverse, _BELOW_HALF)
        store_uint16(out, 34 * block, half(scale))
        store_bytes(out, 34 * block + 2, cut(rounded, np.int32(127)))


@kernel
def _plain_symmetric(x, out, bits):
    """Q4_0 and Q5_0: the value furthest from zero becomes the lowest level, whatever its sign."""
    middle = np.float32(1 << bits - 1)
    top = np.int32((1 << bits) - 1)
    size = 2 + 4 * bits
    for block in range(x.size // BLOCK):
        values = load_block(x, BLOCK * block)
        furthest = having_magnitude(values, largest_magnitude(values))
        # + 0 because of zeros only, where ggml has +0
        scale = (x[BLOCK * block + lowest_bit(furthest)] + np.float32(0)) / -middle
        inverse = _inverse(scale)
        offset = middle + np.float32(0.5)
        if not abs(inverse) <= _FINITE:  # ggml's x86 conversion of infinity to a byte is 0
            inverse = offset = np.float32(0)
        store_uint16(out, size * block, half(scale))
        _store_levels(out, size * block + 2, cut(values * inverse + offset, top), bits)


@kernel
def _plain_affine(x, out, bits):
    """Q4_1 and Q5_1: the least value is level 0, the largest the highest level."""
    top = np.int32((1 << bits) - 1)
    size = 4 + 4 * bits
    for block in range(x.size // BLOCK):
        values = load_block(x, BLOCK * block)
        least, most = lowest(values), highest(values)
        if least == 0:  # ggml keeps the first of the zeros, +0 or -0
            least = x[BLOCK * block + lowest_bit(having_magnitude(values, np.uint32(0)))]
        scale = (most - least) / np.float32(top)
        inverse = _inverse(scale)
        offset = np.float32(0.5)
        start = least
        if not (inverse <= _FINITE and scale <= _FINITE):  # what ggml's x86 conversion makes of infinity and NaN is 0
            inverse = offset = start = np.float32(0)
        store_uint16(out, size * block, half(scale))
        store_uint16(out, size * block + 2, half(least))
        _store_levels(out, size * block + 4, cut((values - start) * inverse + offset, top), bits)


# -- with importance weights -------------------------------------------------------------------------------------------


@kernel
def _searched_symmetric(x, weights, sigma2, out, bits):
    """Q4_0 and Q5_0."""
    middle, size = 1 << bits - 1, 2 + 4 * bits
    values, errors, products = np.empty((3, SCRATCH), np.float32)
    blocks = x.size // BLOCK
    for group in range(0, blocks, LANES):
        first = min(group, blocks - LANES)  # the last lanes encode some blocks once more
        gather(x, first * BLOCK, BLOCK, BLOCK, values)
        weigh(weights, sigma2, first, values, errors)
        scale, inverse, zeros = symmetric_search(values, 0, errors, products, BLOCK, middle)
        put_half(out, size * first, size, to_float16(scale))
        store(values, 0, inverse)
        store(values, LANES, where(zeros, -middle, splat(0)))  # where all is zero, so is the level
        for lane in range(LANES):
            block = first + lane
            scaled = load_block(x, block * BLOCK) * values[lane] + values[LANES + lane]
            _store_levels(out, size * block + 2, nearest_levels(scaled, -middle, middle - 1), bits)


@kernel
def _searched_affine(x, weights, sigma2, out, bits):
    """Q4_1 and Q5_1."""
    top, size = (1 << bits) - 1, 4 + 4 * bits
    values, errors, levels = np.empty((3, SCRATCH), np.float32)
    blocks = x.size // BLOCK
    for group in range(0, blocks, LANES):
        first = min(group, blocks - LANES)  # the last lanes encode some blocks once more
        gather(x, first * BLOCK, BLOCK, BLOCK, values)
        weigh(weights, sigma2, first, values, errors)
        scale, minus, inverse, low = affine_search(values, 0, errors, levels, BLOCK, top, -0.9, 0.05, 36, False)
        put_half(out, size * first, size, to_float16(scale))
        put_half(out, size * first + 2, size, to_float16(-minus))
        store(values, 0, inverse)
        store(values, LANES, low)
        for lane in range(LANES):
            block = first + lane
            scaled = (load_block(x, block * BLOCK) - values[LANES + lane]) * values[lane]
            _store_levels(out, size * block + 4, limited_levels(scaled, top), bits)
