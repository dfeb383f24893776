"""E2M1: floats of 4 bits, 0 0.5 1 1.5 2 3 4 6 and their negatives, in groups along the rows that share a scale.

NVFP4   16 values and an E4M3 for them, which a float32 for the whole matrix divides
MXFP4   32 values and an E8M0, a power of two: its exponent and 127 (OCP Microscaling Formats 1.0)

Two values to a byte, the first in its low half (compressed-tensors, compressors/nvfp4, "nvfp4-pack-quantized"). A scale
is searched for: of those near the one that makes the largest value 6, the one with the smallest sum of squared errors.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize import e4m3
from quantize.simd import LANES, fabs, gather, inlined, kernel, load, minimum, splat, store, where, workspace
from quantize.simd32 import as_bits

LARGEST = 6.0
NVFP4_GROUP, MXFP4_GROUP = 16, 32
VALUES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""float32 of every 4 bits."""
EXPONENTS = np.ldexp(np.float32(1), np.arange(255) - 127).astype(np.float32)
"""float32 of every E8M0 but 255, which is NaN."""

# Codes tried below and above the one at which the largest value is 6: an E4M3 changes by an eighth of an octave, and at
# 5 above the largest value is 4, from where on smaller values only get coarser.
_NVFP4_BELOW, _NVFP4_TRIED = 2, 8
_MXFP4_BELOW, _MXFP4_TRIED = 1, 3
_ROUND = np.float32(12582912)  # 1.5 * 2**23: added and taken away it leaves the nearest whole number, ties to even


@inlined
def _nearest(sizes):
    """The E2M1s nearest to floats of no sign, in lanes; ties to even, what is beyond 6 is 6."""
    sizes = minimum(sizes, splat(6))
    step = where(sizes < 2, splat(0.5), where(sizes < 4, splat(1), splat(2)))
    inverse = where(sizes < 2, splat(2), where(sizes < 4, splat(1), splat(0.5)))
    return ((sizes * inverse + _ROUND) - _ROUND) * step


@inlined
def _code(value):
    """The 4 bits (uint32) of the E2M1 nearest to the float32 `value`: which of the middles between two are passed."""
    size = abs(value)
    low = np.uint32(size > np.float32(0.25)) + np.uint32(size >= np.float32(0.75)) + np.uint32(size > np.float32(1.25))
    high = np.uint32(size > np.float32(2.5)) + np.uint32(size >= np.float32(3.5)) + np.uint32(size > np.float32(5))
    return low + np.uint32(size >= np.float32(1.75)) + high | (as_bits(value) >> np.uint32(28) & np.uint32(8))


@kernel
def _search(values, group, table, tried, codes):
    """Adds to each of `codes`, a group's place in `table`, what makes it the best of the `tried` from there on.

    LANES groups at a time: `values` holds that many times `group` values, a multiple of it.
    """
    x, scales, best = workspace(group), workspace(1), workspace(1)
    for first in range(0, codes.size, LANES):
        gather(values, first * group, group, group, x)
        least, found = splat(np.inf), splat(0)
        for k in range(tried):
            for lane in range(LANES):
                scales[lane] = table[codes[first + lane] + k]
            scale = load(scales, 0)
            inverse, errors = np.float32(1) / scale, splat(0)
            for i in range(group):
                size = fabs(load(x, i * LANES))
                error = size - scale * _nearest(size * inverse)
                errors += error * error
            found = where(errors < least, splat(k), found)
            least = minimum(errors, least)
        store(best, 0, found)
        for lane in range(LANES):
            codes[first + lane] += np.uint8(best[lane])


@kernel
def _encode(values, group, scales, out):
    """Fills `out` (uint8) with the 4 bits of the E2M1 nearest to value / scale."""
    for row in range(values.shape[0]):
        for place in range(scales.shape[1]):
            scale = scales[row, place]
            for column in range(place * group, (place + 1) * group):
                out[row, column] = np.uint8(_code(values[row, column] / scale))


def _searched(values: np.ndarray, table: np.ndarray, codes: np.ndarray, tried: int) -> np.ndarray:
    """The best code of each group (rows, groups) among `tried` from `codes` on."""
    group = values.shape[1] // codes.shape[1]
    flat, first = values.reshape(-1), codes.reshape(-1).copy()
    whole = first.size - first.size % LANES
    _search(flat[: whole * group], group, table, tried, first[:whole])
    if whole < first.size:  # the rest, filled up with zeros
        rest, room = np.ones(LANES, np.uint8), np.zeros(LANES * group, np.float32)
        rest[: first.size - whole], room[: flat.size - whole * group] = first[whole:], flat[whole * group :]
        _search(room, group, table, tried, rest)
        first[whole:] = rest[: first.size - whole]
    return first.reshape(codes.shape)


def global_scale(top: float) -> np.float32:
    """NVFP4's float32 for a matrix whose largest absolute value is `top`: the largest group scale becomes 448.

    Matrices that a server computes as one (q, k and v; gate and up) have to share it: give the largest of them all.
    """
    with np.errstate(over="ignore", divide="ignore"):
        found = np.float32(e4m3.LARGEST * LARGEST) / np.float32(top)
    return found if np.isfinite(found) else np.float32(1)


def nvfp4(values: np.ndarray, overall: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """Packed values, uint8 (rows, columns / 2), and E4M3 scales, uint8 (rows, columns / 16).

    `values` is float32 (rows, columns), columns a multiple of 16; `overall` is what `global_scale` gives.
    """
    top = e4m3.largest(values, (1, NVFP4_GROUP))
    table = e4m3.VALUES[:127] / overall
    codes = e4m3.encode(top * (overall / np.float32(LARGEST)), np.ones((1, 1), np.float32), top.shape)
    first = np.clip(codes, 1 + _NVFP4_BELOW, len(table) - _NVFP4_TRIED + _NVFP4_BELOW) - np.uint8(_NVFP4_BELOW)
    codes = _searched(values, table, first, _NVFP4_TRIED)
    return _packed(values, NVFP4_GROUP, table[codes]), codes


def mxfp4(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Packed values, uint8 (rows, columns / 2), and E8M0 scales, uint8 (rows, columns / 32); columns in 32s."""
    top = e4m3.largest(values, (1, MXFP4_GROUP))
    exponent = np.frexp(np.maximum(top, np.finfo(np.float32).tiny))[1] - 1 - 2  # of the scale at which top is in [4, 8)
    first = np.clip(exponent + 127 - _MXFP4_BELOW, 1, len(EXPONENTS) - _MXFP4_TRIED).astype(np.uint8)
    codes = _searched(values, EXPONENTS, first, _MXFP4_TRIED)
    return _packed(values, MXFP4_GROUP, EXPONENTS[codes]), codes


def _packed(values: np.ndarray, group: int, scales: np.ndarray) -> np.ndarray:
    codes = np.empty(values.shape, np.uint8)
    _encode(values, group, scales, codes)
    return np.asarray(codes[:, ::2] | codes[:, 1::2] << 4)


def unpack(packed: np.ndarray) -> np.ndarray:
    """float32 (rows, columns) of packed values, without their scales."""
    return VALUES[np.stack((packed & 15, packed >> 4), -1).reshape(len(packed), -1)]


def decode_nvfp4(packed: np.ndarray, scales: np.ndarray, overall: np.float32) -> np.ndarray:
    """float32 of what `nvfp4` made."""
    return np.asarray(unpack(packed) * (e4m3.VALUES[scales] / overall).repeat(NVFP4_GROUP, 1))


def decode_mxfp4(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """float32 of what `mxfp4` made."""
    return np.asarray(unpack(packed) * EXPONENTS[scales].repeat(MXFP4_GROUP, 1))
