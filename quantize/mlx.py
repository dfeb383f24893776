"""MLX's layouts: whole numbers of 2 to 8 bits in groups along the rows, and the OCP's 4- and 8-bit floats.

    affine    value = scale * q + bias, q = 0 .. 2**bits - 1, groups of 32, 64 or 128
    mxfp4     E2M1 in groups of 32 under an E8M0, a power of two; mxfp8: E4M3 under the same
    nvfp4     E2M1 in groups of 16 under an E4M3

    weight    U32 (rows, columns * bits / 32)    the first value in the lowest bits, across words where bits ask for it
    scales    as the model's floats, or U8 (rows, groups)
    biases    as scales; affine alone has them

`plain` gives the bits that `mx.quantize` gives on a CPU (mlx/backend/cpu/quantized.cpp, mlx/ops.cpp), whatever the
weight's type: there the arithmetic is that of the type, here float32 is rounded to it in the same places.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize import e2m1, e4m3, floats
from quantize.mlx_layout import AFFINE, Encoded, Layout
from quantize.simd import inlined, kernel

_SMALLEST = np.float32(1e-7)
_LIMIT = {4: e2m1.LARGEST, 8: e4m3.LARGEST}


@kernel
def _ranges(values, group, top, scales, biases):
    """Fills in each group's scale and bias: the end farther from 0 is a whole number of steps from it, and kept."""
    for row in range(values.shape[0]):
        for place in range(scales.shape[1]):
            low, high = values[row, place * group], values[row, place * group]
            for column in range(place * group, (place + 1) * group):
                low, high = min(low, values[row, column]), max(high, values[row, column])
            scale = max((high - low) / top, _SMALLEST)
            edge = low if abs(low) > abs(high) else high
            scale = scale if abs(low) > abs(high) else -scale
            steps = np.rint(edge / scale)
            scales[row, place] = edge / steps if steps != 0 else scale
            biases[row, place] = edge if steps != 0 else np.float32(0)


@inlined
def _level(value, scale, bias, top):
    return min(max(np.rint((value - bias) / scale), np.float32(0)), top)


@kernel
def _levels(values, group, top, scales, biases, out):
    """Fills `out` (uint8) with the nearest level of each value."""
    for row in range(values.shape[0]):
        for place in range(scales.shape[1]):
            scale, bias = scales[row, place], biases[row, place]
            for column in range(place * group, (place + 1) * group):
                out[row, column] = np.uint8(_level(values[row, column], scale, bias, top))


@kernel
def _pack(levels, bits, out):
    """Fills `out` (uint8) with levels of so many bits, one behind the other, the first in the lowest bits."""
    for row in range(levels.shape[0]):
        held, count, at = np.uint64(0), 0, 0
        for column in range(levels.shape[1]):
            held |= np.uint64(levels[row, column]) << np.uint64(count)
            count += bits
            while count >= 8:
                out[row, at] = np.uint8(held & np.uint64(255))
                held >>= np.uint64(8)
                count -= 8
                at += 1


@kernel
def _unpack(packed, bits, out):
    for row in range(out.shape[0]):
        held, count, at = np.uint64(0), 0, 0
        for column in range(out.shape[1]):
            while count < bits:
                held |= np.uint64(packed[row, at]) << np.uint64(count)
                count += 8
                at += 1
            out[row, column] = np.uint8(held & np.uint64((1 << bits) - 1))
            held >>= np.uint64(bits)
            count -= bits


@inlined
def _code(value):
    """The 4 bits of the E2M1 nearest to `value`, as argmin finds it: of two as near the smaller, and never -0."""
    size, code = abs(value), np.uint8(0)
    for middle in (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0):
        code += np.uint8(size > np.float32(middle))
    return code | np.uint8(8) if value < 0 and code > 0 else code


@kernel
def _codes(values, out):
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            out[row, column] = _code(values[row, column])


def pack(levels: np.ndarray, bits: int) -> np.ndarray:
    """uint32 (rows, columns * bits / 32) of uint8 (rows, columns)."""
    out = np.empty((levels.shape[0], levels.shape[1] * bits // 8), np.uint8)
    _pack(np.ascontiguousarray(levels), bits, out)
    return out.view("<u4")


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, columns) of what `pack` made."""
    out = np.empty((words.shape[0], words.shape[1] * 32 // bits), np.uint8)
    _unpack(np.ascontiguousarray(words).view(np.uint8), bits, out)
    return out


def levels(values: np.ndarray, layout: Layout, scales: np.ndarray, biases: np.ndarray) -> np.ndarray:
    """uint8 as `values` (rows, columns): the nearest levels of an affine layout."""
    out = np.empty(values.shape, np.uint8)
    _levels(values, layout.group_size, np.float32((1 << layout.bits) - 1), scales, biases, out)
    return out


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of the nearest numbers that the type has."""
    if dtype == "F32":
        return np.asarray(values, np.float32)
    encode = floats.f16 if dtype == "F16" else floats.bf16
    bits = encode(np.ascontiguousarray(values, np.float32))
    return floats.to_float32(bits.view(np.float16 if dtype == "F16" else np.uint16).reshape(values.shape))


def plain(values: np.ndarray, layout: Layout, dtype: str) -> Encoded:
    """What `mx.quantize` makes of float32 `values` (rows, columns), which are numbers of the type `dtype`."""
    if layout.mode != AFFINE:
        return float_codes(values, layout, float_scales(values, layout, dtype), dtype)
    scales, biases = ranges(values, layout)
    made = levels(values, layout, scales, biases)
    return Encoded(pack(made, layout.bits), rounded(scales, dtype), rounded(biases, dtype))


def ranges(values: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """Scales and biases, float32 (rows, groups), that `mx.quantize` rounds with, before they are rounded themselves."""
    shape = (values.shape[0], values.shape[1] // layout.group_size)
    scales, biases = np.empty(shape, np.float32), np.empty(shape, np.float32)
    _ranges(values, layout.group_size, np.float32((1 << layout.bits) - 1), scales, biases)
    return scales, biases


def float_scales(values: np.ndarray, layout: Layout, dtype: str) -> np.ndarray:
    """uint8 (rows, groups): E4M3s of nvfp4, else E8M0s, the first that no value is beyond."""
    top = e4m3.largest(values, (1, layout.group_size))
    scales = rounded(top / np.float32(_LIMIT[layout.bits]), dtype)
    if layout.mode == "nvfp4":
        return e4m3.encode(scales, np.ones((1, 1), np.float32), scales.shape)
    part, exponent = np.frexp(scales)
    exponent = np.where(part == 0.5, exponent - 1, exponent)  # a power of two is its own
    return np.where(scales > 0, np.clip(exponent + 127, 0, 254), 127).astype(np.uint8)


def float_codes(values: np.ndarray, layout: Layout, scales: np.ndarray, dtype: str) -> Encoded:
    """The values by their groups' scales, each to its nearest float."""
    table = e4m3.VALUES if layout.mode == "nvfp4" else e2m1.EXPONENTS
    each = table[scales].repeat(layout.group_size, 1)
    with np.errstate(divide="ignore", over="ignore"):
        parts = rounded(np.where(each == 0, np.float32(0), values / np.where(each == 0, 1, each)), dtype)
    if layout.bits == 8:
        codes = e4m3.encode(parts, np.ones((1, 1), np.float32), parts.shape)
    else:
        codes = np.empty(parts.shape, np.uint8)
        _codes(parts, codes)
    return Encoded(pack(codes, layout.bits), scales)


def decode(encoded: Encoded, layout: Layout) -> np.ndarray:
    """float32 (rows, columns): what a reader computes with, before its own type rounds it."""
    codes = unpack(encoded.weight, layout.bits)
    if layout.mode == AFFINE:
        assert encoded.biases is not None
        scales, biases = (part.repeat(layout.group_size, 1) for part in (encoded.scales, encoded.biases))
        return np.asarray(codes.astype(np.float32) * scales + biases)
    table = e4m3.VALUES if layout.mode == "nvfp4" else e2m1.EXPONENTS
    numbers = e4m3.VALUES[codes] if layout.bits == 8 else e2m1.VALUES[codes]
    return np.asarray(numbers * table[encoded.scales].repeat(layout.group_size, 1))
