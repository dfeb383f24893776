"""Numbers in ONNX Runtime's blocks of 4 and 8 bits, packed and unpacked; `plain` gives the bytes of its own quantizer.

The layout is drawn in nbits_layout.py. Plain scales, as ONNX Runtime chooses them (mlas/lib/q4_dq.cpp): symmetric, the
value farthest from 0 becomes level 0, so that the scale is negative where that value is positive; else the range of
the values and 0 is spread over all levels.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize import halves
from quantize.columns import side_by_side
from quantize.nbits_layout import Encoded, Layout
from quantize.simd import inlined, kernel


@kernel
def _plain_scales(values, columns, width, top, symmetric, scales, zeros, first, last):
    """Fills in what ONNX Runtime takes; `values` (rows, blocks * width) beyond `columns` are not looked at."""
    middle = (top + np.float32(1)) / np.float32(2)
    for row in range(first, last):
        for place in range(scales.shape[1]):
            low, high = np.float32(0), np.float32(0)
            for column in range(place * width, min((place + 1) * width, columns)):
                low, high = min(low, values[row, column]), max(high, values[row, column])
            if symmetric:
                far = high if abs(high) > abs(low) else low
                scales[row, place], zeros[row, place] = -far / middle, middle
            else:
                scale = (high - low) / top
                zero = -low / scale if scale != 0 else low
                scales[row, place] = scale
                zeros[row, place] = min(max(np.floor(zero + np.float32(0.5)), np.float32(0)), top)


@inlined
def _level(value, zero, top):
    """The nearest level; a half goes away from 0, as C's roundf has it: behind the limits nothing is below 0."""
    return np.uint8(np.floor(min(max(value + zero, np.float32(0)), top) + np.float32(0.5)))


@kernel
def _encode(values, columns, width, four, top, scales, zeros, out, first, last):
    """Fills `out` (uint8, a row's blocks one behind the other) with the nearest levels, packed; 0 behind `columns`."""
    for row in range(first, last):
        for place in range(scales.shape[1]):
            scale, zero = scales[row, place], zeros[row, place]
            inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
            block = values[row, place * width : (place + 1) * width]
            if four:
                into = out[row, place * (width // 2) : (place + 1) * (width // 2)]
                for i in range(width // 2):
                    low = _level(block[2 * i] * inverse, zero, top)
                    into[i] = low | (_level(block[2 * i + 1] * inverse, zero, top) << np.uint8(4))
            else:
                into = out[row, place * width : (place + 1) * width]
                for i in range(width):
                    into[i] = _level(block[i] * inverse, zero, top)
        if columns < values.shape[1]:
            _empty(out, row, columns, four)


@inlined
def _empty(out, row, columns, four):
    """Bytes of 0 behind that of the last column, as ONNX Runtime has them: nothing is multiplied with these."""
    at = (columns + 1) // 2 if four else columns
    for place in range(at, out.shape[1]):
        out[row, place] = np.uint8(0)


def filled(values: np.ndarray, layout: Layout) -> np.ndarray:
    """float32 (rows, blocks * block_size) of `values` (rows, columns): zeros fill the last block."""
    values = np.ascontiguousarray(values, np.float32)
    more = -values.shape[1] % layout.block_size
    return np.pad(values, ((0, 0), (0, more))) if more else values


def plain_scales(values: np.ndarray, layout: Layout, threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scales and zero points, float32 (rows, blocks), that ONNX Runtime takes for `values` (rows, columns)."""
    whole = filled(values, layout)
    shape = len(values), layout.blocks(values.shape[1])
    scales, zeros = np.empty(shape, np.float32), np.empty(shape, np.float32)
    arrays = whole, whole.shape[1], layout.block_size, np.float32(layout.top), layout.symmetric, scales, zeros
    side_by_side(lambda first, last: _plain_scales(*arrays, first, last), len(values), threads)
    return as_stored(scales, layout.scales), zeros


def plain(values: np.ndarray, layout: Layout, threads: int = 1) -> Encoded:
    """What ONNX Runtime's quantizer makes of float32 `values` (rows, columns)."""
    return nearest(values, layout, *plain_scales(values, layout, threads), threads)


def nearest(values: np.ndarray, layout: Layout, scales: np.ndarray, zeros: np.ndarray, threads: int = 1) -> Encoded:
    """The nearest levels to float32 `values` (rows, columns), for scales and zero points, float32 (rows, blocks)."""
    whole = filled(values, layout)
    out = np.empty((len(values), whole.shape[1] * layout.bits // 8), np.uint8)
    sizes = values.shape[1], layout.block_size, layout.bits == 4, np.float32(layout.top)
    arrays = whole, *sizes, scales, zeros, out
    side_by_side(lambda first, last: _encode(*arrays, first, last), len(values), threads)
    return _with_zeros(out, layout, scales, zeros)


def packed(levels: np.ndarray, layout: Layout, scales: np.ndarray, zeros: np.ndarray) -> Encoded:
    """Levels that were found elsewhere, uint8 (rows, columns), in this layout; zeros uint8 (rows, blocks).

    ValueError where zero points are not those of a symmetric layout, which stores none.
    """
    if layout.symmetric and (zeros != layout.middle).any():
        raise ValueError(f"zero points other than {layout.middle} in a symmetric layout")
    more = -levels.shape[1] % layout.block_size
    levels = np.pad(levels, ((0, 0), (0, more))) if more else levels
    return _with_zeros(_packed(levels, layout.bits), layout, np.asarray(scales, np.float32), zeros)


def _with_zeros(out: np.ndarray, layout: Layout, scales: np.ndarray, zeros: np.ndarray) -> Encoded:
    values = out.reshape(*scales.shape, -1)
    return Encoded(values, scales, None if layout.symmetric else _packed(zeros.astype(np.uint8), layout.bits))


def _packed(levels: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, …): two numbers of 4 bits a byte, the first in the low half; an odd last one has 8 beside it."""
    if bits == 8:
        return np.ascontiguousarray(levels)
    if levels.shape[1] % 2:
        levels = np.concatenate([levels, np.full((len(levels), 1), FILL, np.uint8)], axis=1)
    return np.ascontiguousarray(levels[:, 0::2] | (levels[:, 1::2] << 4))


FILL = 8
"""Beside the last of an odd number of zero points, as ONNX Runtime has it."""


def unpacked(array: np.ndarray, bits: int) -> np.ndarray:
    """uint8 (rows, numbers) of what was packed."""
    flat = array.reshape(len(array), -1)
    if bits == 8:
        return flat
    numbers = np.empty((len(flat), flat.shape[1] * 2), np.uint8)
    numbers[:, 0::2], numbers[:, 1::2] = flat & 15, flat >> 4
    return numbers


def decode(encoded: Encoded, layout: Layout, columns: int) -> np.ndarray:
    """float32 (rows, columns): what ONNX Runtime computes with."""
    blocks = encoded.scales.shape[1]
    levels = unpacked(encoded.values, layout.bits).astype(np.float32).reshape(len(encoded.scales), blocks, -1)
    zeros: np.ndarray | float = layout.middle
    if encoded.zeros is not None:
        zeros = unpacked(encoded.zeros, layout.bits)[:, :blocks, None].astype(np.float32)
    whole = (levels - zeros) * encoded.scales[..., None]
    return np.asarray(whole.reshape(len(levels), -1)[:, :columns])


def as_stored(scales: np.ndarray, dtype: str) -> np.ndarray:
    """float32 of the nearest numbers that the type of the scales has; of float16 none is infinite."""
    if dtype == "F32":
        return np.asarray(scales, np.float32)
    wide = np.ascontiguousarray(scales, np.float32)
    bits, out = np.empty(wide.shape, np.uint16), np.empty(wide.shape, np.float32)
    half = dtype == "F16"
    wide = np.clip(wide, -65504, 65504) if half else wide
    (halves.to_float16 if half else halves.to_bfloat16)(wide.view(np.uint32).reshape(-1), bits.reshape(-1))
    (halves.from_float16 if half else halves.from_bfloat16)(bits.reshape(-1), out.reshape(-1).view(np.uint32))
    return out
