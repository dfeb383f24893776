"""TQ1_0 and TQ2_0: 256 values that are -1, 0 or 1 times one scale, the largest of them without its sign.

For models that were trained so (BitNet b1.58, TriLM); of any other most values become 0. Without a search, and
importance changes nothing. Layouts, little-endian (ggml-common.h, block_tq1_0 and block_tq2_0), digits 0, 1, 2:

    TQ1_0  32 bytes: byte m holds the digits of values m, m + 32, ... m + 128, the first the most significant
           16 bytes: byte m those of values 160 + m, 160 + m + 16, ... 160 + m + 64
            4 bytes: byte m those of values 240 + m, 240 + m + 4, ... 240 + m + 12, and a last digit of 0
           d float16; a byte is its digits as a number n of base 3, stored as n * 256 / 243 rounded up
    TQ2_0  32 bytes: byte m holds values m, m + 32, m + 64, m + 96 in two bits each, the first lowest
           32 bytes: the same of the other 128 values, then d float16

Source: ggml-quants.c, quantize_row_tq1_0_ref and quantize_row_tq2_0_ref.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.blocks import TYPES
from quantize.halves import half
from quantize.simd import inlined, kernel
from quantize.simd32 import (
    WIDTH,
    above_bits,
    as_float,
    largest_magnitude,
    load_block,
    magnitudes,
    signs,
    store_bytes,
    store_uint16,
)

_BLOCK = 256
_FINITE = np.float32(np.finfo(np.float32).max)


def tq1_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 256 * 54) of float32 `values` (rows, n), n a multiple of 256; `weights` change nothing."""
    return _encoded("TQ1_0", _encode_1, values)


def tq2_0(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 256 * 66) of float32 `values` (rows, n), n a multiple of 256; `weights` change nothing."""
    return _encoded("TQ2_0", _encode_2, values)


def _encoded(name: str, encode: Callable[..., None], values: np.ndarray) -> np.ndarray:
    out = np.empty((len(values), TYPES[name].row_bytes(values.shape[1])), np.uint8)
    encode(np.ascontiguousarray(values, np.float32).reshape(-1), out.reshape(-1))
    return out


@inlined
def _scale(x, first):
    """The largest of 256 values without its sign, and what to multiply them with."""
    values = load_block(x, first)
    for i in range(first + WIDTH, first + _BLOCK, WIDTH):
        values = magnitudes(values, load_block(x, i))
    scale = as_float(largest_magnitude(values))
    inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
    # the inverse of a denormal overflows; C's lroundf of infinity, cut to 32 bits, is 0
    return scale, inverse if inverse <= _FINITE else np.float32(0)


@inlined
def _digits(x, at, inverse):
    return signs(load_block(x, at) * inverse)


@inlined
def _byte(number):
    """Five digits of base 3 as the byte from which they come back, one by one, by multiplying with 3."""
    return np.uint8((number * np.uint32(256) + np.uint32(242)) // np.uint32(243))


@inlined
def _five(digits, at, step):
    number = np.uint32(digits[at])
    for n in range(1, 5):
        number = number * np.uint32(3) + np.uint32(digits[at + n * step])
    return number


@kernel
def _encode_1(x, out):
    digits = np.zeros(_BLOCK + 4, np.uint8)  # the last digit of the last four bytes is 0
    for block in range(x.size // _BLOCK):
        at, first = 54 * block, _BLOCK * block
        scale, inverse = _scale(x, first)
        for i in range(0, _BLOCK, WIDTH):
            store_bytes(digits, i, _digits(x, first + i, inverse))
        for m in range(32):
            out[at + m] = _byte(_five(digits, m, 32))
        for m in range(16):
            out[at + 32 + m] = _byte(_five(digits, 160 + m, 16))
        for m in range(4):
            out[at + 48 + m] = _byte(_five(digits, 240 + m, 4))
        store_uint16(out, at + 52, half(scale))


@kernel
def _encode_2(x, out):
    for block in range(x.size // _BLOCK):
        at, first = 66 * block, _BLOCK * block
        scale, inverse = _scale(x, first)
        for part in range(2):
            start = first + 4 * WIDTH * part
            low = above_bits(_digits(x, start, inverse), _digits(x, start + WIDTH, inverse), 2)
            high = above_bits(_digits(x, start + 2 * WIDTH, inverse), _digits(x, start + 3 * WIDTH, inverse), 2)
            store_bytes(out, at + WIDTH * part, above_bits(low, high, 4))
        store_uint16(out, at + 64, half(scale))
