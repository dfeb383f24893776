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

from quantize import importance, simd, simd32
from quantize.blocks import TYPES
from quantize.halves import half
from quantize.importance import BLOCK, SCRATCH
from quantize.searches import affine_search, symmetric_search
from quantize.simd import LANES

_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_FINITE = np.float32(np.finfo(np.float32).max)


def q8_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 34) of float32 `values` (rows, n), n a multiple of 32; importance weights change nothing.

    A block is d (float16), then 32 int8: q = round(x / d) with d = max|x| / 127, halves away from zero
    (ggml-quants.c, quantize_row_q8_0_ref).
    """
    out = _room(values, "Q8_0")
    _plain_q8_0(_flat(values), out.reshape(-1))
    return out


def q4_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 18) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _symmetric(values, weights, 4)


def q5_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 22) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _symmetric(values, weights, 5)


def q4_1(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 20) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _affine(values, weights, 4)


def q5_1(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 24) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    return _affine(values, weights, 5)


def _symmetric(values: np.ndarray, weights: np.ndarray | None, bits: int) -> np.ndarray:
    """x = d * (level - middle)."""
    out = _room(values, f"Q{bits}_0")
    if weights is None:
        _plain_symmetric(_flat(values), out.reshape(-1), bits)
        return out
    return _searched(_searched_symmetric, values, weights, out, bits)


def _affine(values: np.ndarray, weights: np.ndarray | None, bits: int) -> np.ndarray:
    """x = d * level + m."""
    out = _room(values, f"Q{bits}_1")
    if weights is None:
        _plain_affine(_flat(values), out.reshape(-1), bits)
        return out
    return _searched(_searched_affine, values, weights, out, bits)


def _searched(
    search: Callable[..., None], values: np.ndarray, weights: np.ndarray, out: np.ndarray, bits: int
) -> np.ndarray:
    """`out`, filled by the kernel `search`; the weight of an error grows with the mean square of its row."""
    rows, n = values.shape
    flat = importance.padded(values)
    sigma2 = importance.mean_squares(flat, n, lambda sums: sums / np.float32(n))
    blocks = np.empty((flat.size // n, out.shape[1]), np.uint8) if flat.size > values.size else out
    search(flat, importance.repeated(weights), sigma2, blocks.reshape(-1), bits)
    return blocks[:rows]


def _room(values: np.ndarray, name: str) -> np.ndarray:
    return np.empty((len(values), TYPES[name].row_bytes(values.shape[1])), np.uint8)


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).reshape(-1)


# -- without importance weights ----------------------------------------------------------------------------------------


@simd.inlined
def _inverse(scale):
    return np.float32(1) / scale if scale != 0 else np.float32(0)


@simd.inlined
def _store_levels(out, at, levels, bits):
    """The fifth bits if there are any, then the low four, at `at`."""
    if bits == 5:
        simd32.store_uint32(out, at, simd32.fifth_bits(levels))
        at += 4
    simd32.store_nibbles(out, at, levels)


@simd.kernel
def _plain_q8_0(x, out):
    for block in range(x.size // BLOCK):
        values = simd32.load(x, BLOCK * block)
        scale = simd32.as_float(simd32.largest_magnitude(values)) / np.float32(127)
        inverse = _inverse(scale)
        # the inverse of a denormal overflows; ggml's x86 conversion of infinity to a byte is 0
        inverse = inverse if inverse <= _FINITE else np.float32(0)
        # C's roundf: the largest number below a half, added away from zero, then cut off
        rounded = simd32.away_from_zero(values * inverse, _BELOW_HALF)
        simd32.store_uint16(out, 34 * block, half(scale))
        simd32.store_bytes(out, 34 * block + 2, simd32.cut(rounded, np.int32(127)))


@simd.kernel
def _plain_symmetric(x, out, bits):
    """Q4_0 and Q5_0: the value furthest from zero becomes the lowest level, whatever its sign."""
    middle = np.float32(1 << bits - 1)
    top = np.int32((1 << bits) - 1)
    size = 2 + 4 * bits
    for block in range(x.size // BLOCK):
        values = simd32.load(x, BLOCK * block)
        furthest = simd32.having_magnitude(values, simd32.largest_magnitude(values))
        # + 0 because of zeros only, where ggml has +0
        scale = (x[BLOCK * block + simd32.lowest_bit(furthest)] + np.float32(0)) / -middle
        inverse = _inverse(scale)
        offset = middle + np.float32(0.5)
        if not abs(inverse) <= _FINITE:  # ggml's x86 conversion of infinity to a byte is 0
            inverse = offset = np.float32(0)
        simd32.store_uint16(out, size * block, half(scale))
        _store_levels(out, size * block + 2, simd32.cut(values * inverse + offset, top), bits)


@simd.kernel
def _plain_affine(x, out, bits):
    """Q4_1 and Q5_1: the least value is level 0, the largest the highest level."""
    top = np.int32((1 << bits) - 1)
    size = 4 + 4 * bits
    for block in range(x.size // BLOCK):
        values = simd32.load(x, BLOCK * block)
        least, most = simd32.lowest(values), simd32.highest(values)
        if least == 0:  # ggml keeps the first of the zeros, +0 or -0
            least = x[BLOCK * block + simd32.lowest_bit(simd32.having_magnitude(values, np.uint32(0)))]
        scale = (most - least) / np.float32(top)
        inverse = _inverse(scale)
        offset = np.float32(0.5)
        start = least
        if not (inverse <= _FINITE and scale <= _FINITE):  # what ggml's x86 conversion makes of infinity and NaN is 0
            inverse = offset = start = np.float32(0)
        simd32.store_uint16(out, size * block, half(scale))
        simd32.store_uint16(out, size * block + 2, half(least))
        _store_levels(out, size * block + 4, simd32.cut((values - start) * inverse + offset, top), bits)


# -- with importance weights -------------------------------------------------------------------------------------------


@simd.kernel
def _searched_symmetric(x, weights, sigma2, out, bits):
    """Q4_0 and Q5_0."""
    middle, size = 1 << bits - 1, 2 + 4 * bits
    values, errors, products = np.empty((3, SCRATCH), np.float32)
    blocks = x.size // BLOCK
    for group in range(0, blocks, LANES):
        first = min(group, blocks - LANES)  # the last lanes encode some blocks once more
        simd.gather(x, first * BLOCK, BLOCK, BLOCK, values)
        importance.weigh(weights, sigma2, first, values, errors)
        scale, inverse, zeros = symmetric_search(values, 0, errors, products, BLOCK, middle)
        simd.put_half(out, size * first, size, simd.to_float16(scale))
        simd.store(values, 0, inverse)
        simd.store(values, LANES, simd.where(zeros, -middle, simd.splat(0)))  # where all is zero, so is the level
        for lane in range(LANES):
            block = first + lane
            scaled = simd32.load(x, block * BLOCK) * values[lane] + values[LANES + lane]
            _store_levels(out, size * block + 2, simd32.nearest_levels(scaled, -middle, middle - 1), bits)


@simd.kernel
def _searched_affine(x, weights, sigma2, out, bits):
    """Q4_1 and Q5_1."""
    top, size = (1 << bits) - 1, 4 + 4 * bits
    values, errors, levels = np.empty((3, SCRATCH), np.float32)
    blocks = x.size // BLOCK
    for group in range(0, blocks, LANES):
        first = min(group, blocks - LANES)  # the last lanes encode some blocks once more
        simd.gather(x, first * BLOCK, BLOCK, BLOCK, values)
        importance.weigh(weights, sigma2, first, values, errors)
        scale, minus, inverse, low = affine_search(values, 0, errors, levels, BLOCK, top, -0.9, 0.05, 36, False)
        simd.put_half(out, size * first, size, simd.to_float16(scale))
        simd.put_half(out, size * first + 2, size, simd.to_float16(-minus))
        simd.store(values, 0, inverse)
        simd.store(values, LANES, low)
        for lane in range(LANES):
            block = first + lane
            scaled = (simd32.load(x, block * BLOCK) - values[LANES + lane]) * values[lane]
            _store_levels(out, size * block + 4, simd32.nearest_levels(scaled, 0, top), bits)
