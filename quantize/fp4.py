"""MXFP4 and NVFP4 as ggml makes them: floats of 4 bits, 0 0.5 1 1.5 2 3 4 6 and their negatives, under shared scales.

Without a search, and importance changes nothing (e2m1.py searches, for other runtimes). ggml tries all sixteen levels
for every value and keeps the first of the nearest: that is counting how many of the seven middles between two levels
a value is beyond. Both distances to a middle's neighbours are exact in float32, so the outcome is the same; only where
values are far beyond the largest level, which a limited scale allows, distances round, and all are tried here too.
Layouts (ggml-common.h, block_mxfp4 and block_nvfp4); levels are stored as twice their value, scales as half of it:

    MXFP4  the exponent of the scale and 127, then 16 bytes: byte j holds value j in its low half, j + 16 in its high
    NVFP4  four E4M3 without a sign, one for each 16 values, then 32 bytes: of 8 bytes, byte j holds value j of the 16
           in its low half, j + 8 in its high half

Source: ggml-quants.c, quantize_row_mxfp4_ref and quantize_row_nvfp4_ref; ggml-impl.h for the scales.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.blocks import TYPES
from quantize.importance import BLOCK
from quantize.simd import inlined, kernel
from quantize.simd32 import (
    as_bits,
    as_float,
    halves,
    largest_magnitude,
    levels_beyond,
    load_block,
    magnitude_of_half,
    store_nibbles,
    store_nibbles_by_8,
)

_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12], np.float32)
_AHEAD = 64  # blocks whose exponents are found before any is used: none waits for its own
_MIDDLES = (0.5, 1.5, 2.5, 3.5, 5.0, 7.0, 10.0)
_NVFP4_LARGEST = np.uint32(0x7E)  # 448


def mxfp4(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 17) of float32 `values` (rows, n), n a multiple of 32; `weights` change nothing."""
    return _encoded("MXFP4", values, _encode_mxfp4, _try_mxfp4)


def nvfp4(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 64 * 36) of float32 `values` (rows, n), n a multiple of 64; `weights` change nothing."""
    return _encoded("NVFP4", values, _encode_nvfp4, _try_nvfp4)


def _encoded(name: str, values: np.ndarray, fast: Callable[..., bool], careful: Callable[..., None]) -> np.ndarray:
    """The blocks of `values`: `fast` says whether it left some to be done once more."""
    out = np.empty((len(values), TYPES[name].row_bytes(values.shape[1])), np.uint8)
    flat, encoded = np.ascontiguousarray(values, np.float32).reshape(-1), out.reshape(-1)
    if fast(flat, encoded):
        careful(flat, encoded)
    return out


def _reached() -> np.ndarray:
    """uint32: item 149 + k is the bits of the least float32 whose log2f is at least k, from -149 to 128.

    It is no power of two where the logarithm of what is just below one rounds to a whole number.
    """
    powers: np.ndarray = np.concatenate([1 << np.arange(23), np.arange(1, 256) << 23]).astype(np.uint32)
    for place, power in enumerate(powers):
        below = power - np.arange(1, min(256, power), dtype=np.uint32)
        logs = np.log2(below.view(np.float32).astype(np.float64)).astype(np.float32)
        powers[place] -= np.uint32(np.count_nonzero(logs >= np.float32(place - 149)))
    return powers


_REACHED = _reached()
_NEXT = _REACHED[23:]  # by the exponent field of a number that is no denormal, from where on its log2f is the next


@inlined
def _level(value, scale):
    """The first of the levels from which `value` is least far, as float32 has the distances."""
    size = abs(value)
    level, least = np.uint8(0), size
    for i in range(1, 8):
        distance = abs(_LEVELS[i] * scale - size)
        if distance < least:
            level, least = np.uint8(i), distance
    return level | np.uint8(8) if level > 0 and value < 0 else level


@inlined
def _put_levels(x, first, count, scale, out, at):  # noqa: PLR0913, PLR0917 - inlined: no call remains
    """The levels of `count` values in half as many bytes: those of the first half in the low bits."""
    half = count // 2
    for j in range(half):
        low, high = _level(x[first + j], scale), _level(x[first + half + j], scale)
        out[at + j] = low | high << np.uint8(4)


@inlined
def _exponent(largest):
    """The byte of a block whose largest value has these bits: log2f of it, 2 less, and 127."""
    if largest == 0:
        return np.uint8(0)
    place = 0
    while place + 1 < _REACHED.size and largest >= _REACHED[place + 1]:
        place += 1
    return np.uint8((place - 149 - 2 + 127) & 255)  # below -125 it is negative, of which ggml keeps the low 8 bits


@inlined
def _has_inverse(exponent):
    """Whether scale and inverse are normal powers of two: to multiply with them is exact."""
    return exponent - np.uint32(3) < np.uint32(252 - 3)


@kernel
def _encode_mxfp4(x, out):
    largest = np.empty(_AHEAD, np.uint32)
    blocks, one, left = x.size // BLOCK, np.float32(1), False
    for start in range(0, blocks, _AHEAD):
        stop = min(start + _AHEAD, blocks)
        for block in range(start, stop):
            largest[block - start] = largest_magnitude(load_block(x, BLOCK * block))
        for block in range(start, stop):
            most = largest[block - start]
            field = most >> np.uint32(23)
            exponent = field - np.uint32(2) + np.uint32(most >= _NEXT[field]) if most > 0 else np.uint32(0)
            left |= (most > 0) & (not _has_inverse(exponent))
            out[17 * block] = np.uint8(exponent)
            inverse = as_float(np.uint32(255) - exponent << np.uint32(23))
            values = load_block(x, BLOCK * block) * inverse  # of zeros there may be NaN, above no middle
            store_nibbles(out, 17 * block + 1, levels_beyond(values, halves(one, one), _MIDDLES))
    return left


@kernel
def _try_mxfp4(x, out):
    for block in range(x.size // BLOCK):
        if not _has_inverse(np.uint32(out[17 * block])):
            exponent = _exponent(largest_magnitude(load_block(x, BLOCK * block)))
            bits = np.uint32(0x00200000) << np.uint32(exponent)  # of an exponent below 2 a denormal
            bits = bits if exponent < 2 else np.uint32(exponent - 1) << np.uint32(23)
            out[17 * block] = exponent
            _put_levels(x, BLOCK * block, BLOCK, as_float(bits), out, 17 * block + 1)


@inlined
def _e4m3(value):
    """The E4M3 without a sign nearest to a float32 that is none below 0; halves away from 0."""
    if not value > 0:
        return np.uint32(0)
    value = min(value, np.float32(448))
    bits = as_bits(value)
    exponent = np.int32(bits >> np.uint32(23)) - 127 + 7
    if exponent <= 0:
        return min(np.uint32(value * np.float32(512) + np.float32(0.5)), np.uint32(7))
    rounded = (bits >> np.uint32(20) & np.uint32(7)) + (bits >> np.uint32(19) & np.uint32(1))
    code = np.uint32(exponent << 3) + rounded
    return code if code < np.uint32(15 << 3) else _NVFP4_LARGEST  # from 248 on ggml has no other


@inlined
def _half_of_e4m3(code):
    """Half the value of an E4M3 without a sign, as float32."""
    if code < 8:
        return np.float32(code) * np.float32(2.0**-10)
    return as_float((code >> np.uint32(3)) + np.uint32(119) << np.uint32(23) | (code & np.uint32(7)) << np.uint32(20))


@kernel
def _encode_nvfp4(x, out):
    left = False
    for half in range(x.size // BLOCK):
        values = load_block(x, BLOCK * half)
        first = _e4m3(as_float(magnitude_of_half(values, 0)) / np.float32(6))
        last = _e4m3(as_float(magnitude_of_half(values, 1)) / np.float32(6))
        block, part = 36 * (half // 2), half % 2
        out[block + 2 * part], out[block + 2 * part + 1] = np.uint8(first), np.uint8(last)
        scales = halves(_step(first), _step(last))
        store_nibbles_by_8(out, block + 4 + 16 * part, levels_beyond(values, scales, _MIDDLES))
        left |= max(first, last) == _NVFP4_LARGEST
    return left


@inlined
def _step(code):
    """Half of the scale; under a scale of 0 nothing is beyond a middle."""
    return _half_of_e4m3(code) if code > 0 else np.float32(np.inf)


@kernel
def _try_nvfp4(x, out):
    for part in range(x.size // 16):
        block, place = 36 * (part // 4), part % 4
        if out[block + place] == _NVFP4_LARGEST:
            _put_levels(x, 16 * part, 16, _half_of_e4m3(_NVFP4_LARGEST), out, block + 4 + 8 * place)
