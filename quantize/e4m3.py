"""E4M3: floats of 8 bits, four of exponent and three of mantissa, without infinities. Arrays in, bytes out.

    seeeemmm    value = (-1)**s * 2**(e - 7) * (1 + m / 8); e = 0: 2**-6 * m / 8; 0x7f and 0xff are NaN

Source: Micikevicius et al., "FP8 Formats for Deep Learning", 2022, table 1.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize.simd import inlined, kernel
from quantize.simd32 import as_bits, as_float

LARGEST = 448.0


def _values() -> np.ndarray:
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, byte & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7))
    size[(byte & 127) == 127] = np.nan
    return np.where(byte & 128, -size, size).astype(np.float32)


VALUES = _values()
"""float32 of every byte."""


@inlined
def nearest(value):
    """The byte (uint32) of the E4M3 nearest to the float32 `value`, ties to even; what is beyond the largest is it."""
    bits = as_bits(value)
    magnitude = min(as_float(bits & np.uint32(0x7FFFFFFF)), np.float32(LARGEST))
    # the last bit of a number in [2**14, 2**15) is 2**-9, as that of a denormal E4M3: the addition rounds
    denormal = as_bits(magnitude + np.float32(16384)) - np.uint32(0x46800000)
    whole = as_bits(magnitude)
    odd = (whole >> np.uint32(20)) & np.uint32(1)
    normal = (whole + odd + np.uint32(0x7FFFF) - np.uint32(120 << 23)) >> np.uint32(20)
    return (denormal if magnitude < np.float32(2**-6) else normal) | (bits >> np.uint32(24) & np.uint32(0x80))


@kernel
def _largest(values, rows, columns, out):
    """Fills `out` with the largest absolute value of each block of `rows` x `columns`; NaN and infinity pass on."""
    for row in range(values.shape[0]):
        for block in range(out.shape[1]):
            top = out[row // rows, block]
            for column in range(block * columns, min((block + 1) * columns, values.shape[1])):
                size = abs(values[row, column])
                top = size if size > top or np.isnan(size) else top  # nothing is above a NaN: it stays
            out[row // rows, block] = top


@kernel
def _encode(values, scales, rows, columns, out):
    """Fills `out` with the E4M3 of value / scale, a scale for each block of `rows` x `columns`."""
    for row in range(values.shape[0]):
        for block in range(scales.shape[1]):
            scale = scales[row // rows, block]
            for column in range(block * columns, min((block + 1) * columns, values.shape[1])):
                out[row, column] = np.uint8(nearest(values[row, column] / scale))


def largest(values: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """float32 (row blocks, column blocks): the largest absolute value of each block, smaller ones at the edges.

    `block` is (rows, columns) of one. What is not finite is found: the result holds it.
    """
    rows, columns = values.shape
    out = np.zeros((-(-rows // block[0]), -(-columns // block[1])), np.float32)
    _largest(values, *block, out)
    return out


def encode(values: np.ndarray, scales: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """uint8 as `values` (rows, columns): the bytes of value / scale; `scales` as `largest` gives them, none zero."""
    out = np.empty(values.shape, np.uint8)
    _encode(values, scales, *block, out)
    return out


def decode(codes: np.ndarray, scales: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """float32 of what `encode` made."""
    return np.asarray(VALUES[codes] * spread(scales, block, codes.shape))


def spread(scales: np.ndarray, block: tuple[int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The scale of each value, float32 of `shape`, one scale for each block of (rows, columns)."""
    return scales.repeat(block[0], 0)[: shape[0]].repeat(block[1], 1)[:, : shape[1]].astype(np.float32)
