"""Whole numbers of 2 to 8 bits in groups along the rows, and the 32-bit words that compressed-tensors packs them into.

    weight = scale * (q - zero)          q signed: -8..7 in 4 bits; zero 0 where symmetric
    weight_packed      I32 (rows, columns * bits / 32)    q + 2**(bits - 1), the first value in the lowest bits
    weight_zero_point  I32 (rows * bits / 32, groups)     the same along the rows, where not symmetric

Source: compressed-tensors, compressors/pack_quantized, "pack-quantized". Who has better integers than rounding gives
(GPTQ) hands them to `pack` with their scales and zeros.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

import numpy as np

from quantize import e4m3
from quantize.simd import LANES, REGISTER, gather, kernel, load, maximum, minimum, splat, store, where, workspace

_ROUND = np.float32(12582912)  # 1.5 * 2**23: added and taken away it leaves the nearest whole number, ties to even
_TRIED = 16
_STEP = 0.03  # of the largest scale: the smallest tried is a bit more than half of it
SEARCHED_BITS = 6
"""Up to so many bits a smaller scale, which clips, may be better than the one that reaches the largest value."""


@kernel
def _round(values, scales, group, low, high, out):
    """Fills `out` (int8) with the nearest whole number of value / scale, ties to even, within low..high."""
    for row in range(values.shape[0]):
        for place in range(scales.shape[1]):
            scale = scales[row, place]
            for column in range(place * group, min((place + 1) * group, values.shape[1])):
                level = (min(max(values[row, column] / scale, low), high) + _ROUND) - _ROUND
                out[row, column] = np.int8(np.int32(level))


@kernel
def _search(values, group, low, high, scales):
    """Replaces each of `scales`, the largest useful one of its group, by the best of _TRIED from there down.

    An error counts by the square of its value, as in ggml's Q4_0: without, the best scale clips what matters most.

    LANES groups at a time: `values` holds that many times `group` values, a multiple of it.
    """
    x = workspace(group)
    for first in range(0, scales.size, LANES):
        gather(values, first * group, group, group, x)
        top = load(scales, first)
        least, best = splat(np.inf), top
        for k in range(_TRIED):
            scale = top * np.float32(1 - _STEP * k)
            inverse, errors = np.float32(1) / scale, splat(0)
            for i in range(group):
                value = load(x, i * LANES)
                level = (minimum(maximum(value * inverse, splat(low)), splat(high)) + _ROUND) - _ROUND
                error = value * (value - scale * level)
                errors += error * error
            best = where(errors < least, scale, best)
            least = minimum(errors, least)
        store(scales, first, best)


def _searched(values: np.ndarray, bits: int, scales: np.ndarray) -> np.ndarray:
    """The best scales of groups as wide as `scales` (rows, groups) makes them."""
    group = values.shape[1] // scales.shape[1]
    if uneven := -group % REGISTER:  # of whole rows: zeros behind them have no error
        values, group = np.pad(values, ((0, 0), (0, uneven))), group + uneven
    low, high = map(np.float32, limits(bits))
    flat, found = values.reshape(-1), scales.reshape(-1).copy()
    whole = found.size - found.size % LANES
    _search(flat[: whole * group], group, low, high, found[:whole])
    if whole < found.size:  # the rest, filled up with zeros
        rest, room = np.ones(LANES, np.float32), np.zeros(LANES * group, np.float32)
        rest[: found.size - whole], room[: flat.size - whole * group] = found[whole:], flat[whole * group :]
        _search(room, group, low, high, rest)
        found[whole:] = rest[: found.size - whole]
    return found.reshape(scales.shape)


def limits(bits: int) -> tuple[int, int]:
    """The least and the largest number: (-8, 7) in 4 bits."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def symmetric_scales(values: np.ndarray, bits: int, group: int) -> np.ndarray:
    """float32 (rows, groups), none zero; up to SEARCHED_BITS bits the ones with the smallest errors.

    SmolLM2-135M, a third of its layers in 4 bits: KL 0.151, with the largest value's scale 0.161, with errors that all
    count alike 0.205.

    `values` is float32 (rows, columns); `group` columns share a scale.
    """
    scales = e4m3.largest(values, (1, group)) / np.float32(limits(bits)[1])
    scales[scales == 0] = 1
    if bits <= SEARCHED_BITS:
        return _searched(values, bits, scales)
    return scales


def round_to(values: np.ndarray, scales: np.ndarray, bits: int, group: int) -> np.ndarray:
    """int8 (rows, columns): the nearest numbers of value / scale."""
    out = np.empty(values.shape, np.int8)
    _round(values, scales, group, *map(np.float32, limits(bits)), out)
    return out


def decode(numbers: np.ndarray, scales: np.ndarray, group: int, zeros: np.ndarray | None = None) -> np.ndarray:
    """float32 (rows, columns) of numbers (rows, columns) with scales, and zeros, (rows, groups)."""
    block = (1, group)
    shifted = numbers.astype(np.float32)
    if zeros is not None:
        shifted -= e4m3.spread(zeros, block, numbers.shape)
    return np.asarray(shifted * e4m3.spread(scales, block, numbers.shape))


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """int32 (rows, ceil(columns * bits / 32)): signed numbers (int8) of `bits` bits, one behind the other."""
    rows, columns = numbers.shape
    unsigned = (numbers.astype(np.int16) - limits(bits)[0]).astype(np.uint8)
    words = -(-columns * bits // 32)
    if bits == 8:
        stream = unsigned
    elif bits == 4:
        padded = np.pad(unsigned, ((0, 0), (0, columns % 2)))
        stream = padded[:, ::2] | padded[:, 1::2] << 4
    else:
        each = (unsigned[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
        stream = np.packbits(each.reshape(rows, -1), axis=1, bitorder="little")
    stream = np.pad(stream, ((0, 0), (0, 4 * words - stream.shape[1])))
    return np.ascontiguousarray(stream).view("<i4")


def pack_zeros(zeros: np.ndarray, bits: int) -> np.ndarray:
    """int32 (ceil(rows * bits / 32), groups) of int8 (rows, groups)."""
    return np.ascontiguousarray(pack(np.ascontiguousarray(zeros.T), bits).T)


def unpack(words: np.ndarray, bits: int, columns: int) -> np.ndarray:
    """int8 (rows, columns) of what `pack` made."""
    raw = np.ascontiguousarray(words).view(np.uint8)
    if bits == 8:
        unsigned = raw
    elif bits == 4:
        unsigned = np.stack((raw & 15, raw >> 4), -1).reshape(len(raw), -1)
    else:
        each = np.unpackbits(raw, axis=1, bitorder="little")[:, : columns * bits].reshape(len(raw), columns, bits)
        unsigned = (each << np.arange(bits, dtype=np.uint8)).sum(-1, dtype=np.uint8)
    return (unsigned[:, :columns].astype(np.int16) + limits(bits)[0]).astype(np.int8)


def unpack_zeros(words: np.ndarray, bits: int, rows: int) -> np.ndarray:
    """int8 (rows, groups) of what `pack_zeros` made."""
    return np.ascontiguousarray(unpack(np.ascontiguousarray(words.T), bits, rows).T)
