"""Kernels of Q2_K, Q4_K and Q5_K: x = d * scale * level - dmin * minimum, in sub-blocks (ggml-quants.c).

Lane k of all vectors belongs to super-block k of a group. Four levels at a time are the four bytes of an int32, so
that packing them is a few shifts for four bytes of LANES blocks. Block layouts are those of ggml-common.h.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.searches import affine_level, affine_search, positive_search
from quantize.simd import (
    LANES,
    any_lane,
    fabs,
    from_float16,
    gather,
    inlined,
    kernel,
    limited,
    load,
    maximum,
    minimum,
    nearest_int,
    put_half,
    put_word,
    splat,
    splat_int,
    sqrt,
    store,
    to_float,
    to_float16,
    where,
    workspace,
)

_SUPER = 256
_Q2_K_BYTES = 84
_Q4_K_BYTES = 144
_Q5_K_BYTES = 176


# -- the search, over all sub-blocks ---------------------------------------------------------------------------------


@inlined
def _rms_weights(x, at, n, w):
    """w = rms + |x| of each sub-block: the weights of Q4_K and Q5_K without importance."""
    total = splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        total += v * v
    rms = sqrt(total / np.float32(n))
    for i in range(n):
        store(w, i * LANES, rms + fabs(load(x, (at + i) * LANES)))


@inlined
def _size_weights(x, at, n, w):
    """w = |x|: the weights of Q2_K without importance."""
    for i in range(n):
        store(w, i * LANES, fabs(load(x, (at + i) * LANES)))


@inlined
def mean_square(x, factor):
    """`factor` times the mean of x**2 over the super-block."""
    total = splat(0)
    for i in range(_SUPER):
        v = load(x, i * LANES)
        total += v * v
    return np.float32(factor) * total / np.float32(_SUPER)


@inlined
def importance_weights(x, at, n, square, w):
    """w = importance * sqrt(square + x**2), in place; returns their sum."""
    total = splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        weight = load(w, i * LANES) * sqrt(square + v * v)
        store(w, i * LANES, weight)
        total += weight
    return total


@inlined
def _keep(found, j, scales, minimums, inverses, lows):
    scale, least, inverse, low = found
    store(scales, j * LANES, scale)
    store(minimums, j * LANES, least)
    store(inverses, j * LANES, inverse)
    store(lows, j * LANES, low)


@inlined
def _shared(x, whole, n, top, clip):
    """float16 bits of max / top of the sub-blocks' scales x; `whole` gets theirs, int32 in a byte, at most `clip`."""
    largest = splat(0)
    for j in range(n):
        largest = maximum(load(x, j * LANES), largest)
    inverse = where(largest > 0, np.float32(top) / largest, 0)
    for j in range(n):
        store(whole, j * LANES, minimum(nearest_int(inverse * load(x, j * LANES)) & 0xFF, splat_int(clip)))
    return to_float16(largest / np.float32(top))


# -- levels and packing ----------------------------------------------------------------------------------------------


@inlined
def _levels(x, at, n, d, dmin, inverse, low, top, limit_first, words):
    """Vectors at / 4 on of `words`: the levels of x for the stored scales; where d is 0, ggml keeps the search's."""
    unscaled = d == 0
    some_unscaled = any_lane(unscaled)
    for i in range(0, n, 4):
        word = splat_int(0)
        for b in range(4):
            v = load(x, (at + i + b) * LANES)
            level = limited(nearest_int((v + dmin) / d), 0, top)
            if some_unscaled:
                kept = nearest_int(affine_level(inverse * (v - low), top, limit_first))
                level = where(unscaled, kept, level)
            word |= level << (8 * b)
        store(words, (at + i) // 4 * LANES, word)


@inlined
def _put_twelve(out, at, stride, scales, minimums, words):
    """Bytes 0..11: eight 6-bit scales, eight 6-bit minimums. Leaves in place what a reader unpacks from them.

    0..3: scale j, and above it the two high bits of scale j + 4; 4..7: the same of the minimums;
    8..11: the low four bits of scale j + 4 and of minimum j + 4.
    """
    first, second, third = splat_int(0), splat_int(0), splat_int(0)
    for j in range(4):
        low_scale, high_scale = load(scales, j * LANES), load(scales, (j + 4) * LANES)
        low_least, high_least = load(minimums, j * LANES), load(minimums, (j + 4) * LANES)
        scale = (low_scale | high_scale >> 4 << 6) & 0xFF
        least = (low_least | high_least >> 4 << 6) & 0xFF
        both = (high_scale & 0xF) | (high_least & 0xF) << 4
        store(scales, j * LANES, scale & 63)
        store(minimums, j * LANES, least & 63)
        store(scales, (j + 4) * LANES, (both & 0xF) | scale >> 6 << 4)
        store(minimums, (j + 4) * LANES, both >> 4 | least >> 6 << 4)
        first |= scale << (8 * j)
        second |= least << (8 * j)
        third |= both << (8 * j)
    put_word(out, at, stride, first)
    put_word(out, at + 4, stride, second)
    put_word(out, at + 8, stride, third)


@inlined
def _finish_45(x, d, dmin, scales, minimums, inverses, lows, top, limit_first, words, out, at, stride):
    """Block: d, dmin (float16), 12 bytes of scales; Q5_K: 32 bytes of fifth bits; 128 bytes of low four bits."""
    put_half(out, at, stride, d)
    put_half(out, at + 2, stride, dmin)
    _put_twelve(out, at + 4, stride, scales, minimums, words)
    d, dmin = from_float16(d), from_float16(dmin)
    for j in range(8):
        _levels(
            x,
            32 * j,
            32,
            d * to_float(load(scales, j * LANES)),
            dmin * to_float(load(minimums, j * LANES)),
            load(inverses, j * LANES),
            load(lows, j * LANES),
            top,
            limit_first,
            words,
        )
    at += 16
    if top == 31:
        for i in range(8):  # word i: bit j of byte b is the fifth bit of value 32 j + 4 i + b
            word = splat_int(0)
            for j in range(8):
                word |= (load(words, (8 * j + i) * LANES) >> 4 & 0x01010101) << j
            put_word(out, at + 4 * i, stride, word)
        at += 32
    for j in range(0, 8, 2):  # value 64 j + l in the low half of byte 32 j + l, value 64 j + 32 + l in the high half
        for i in range(8):
            low, high = load(words, (8 * j + i) * LANES), load(words, (8 * j + 8 + i) * LANES)
            put_word(out, at + 16 * j + 4 * i, stride, (low & 0x0F0F0F0F) | (high & 0x0F0F0F0F) << 4)


@inlined
def _finish_2(x, d, dmin, scales, minimums, inverses, lows, limit_first, words, out, at):
    """Block: 16 bytes of scale and minimum, 64 bytes of levels, d, dmin (float16)."""
    put_half(out, at + 80, _Q2_K_BYTES, d)
    put_half(out, at + 82, _Q2_K_BYTES, dmin)
    d, dmin = from_float16(d), from_float16(dmin)
    for j in range(16):
        both = (load(scales, j * LANES) | load(minimums, j * LANES) << 4) & 0xFF
        store(scales, j * LANES, both)
        _levels(
            x,
            16 * j,
            16,
            d * to_float(both & 0xF),
            dmin * to_float(both >> 4),
            load(inverses, j * LANES),
            load(lows, j * LANES),
            3,
            limit_first,
            words,
        )
    for i in range(4):
        word = splat_int(0)
        for b in range(4):
            word |= load(scales, (4 * i + b) * LANES) << (8 * b)
        put_word(out, at + 4 * i, _Q2_K_BYTES, word)
    put_twos(words, out, at + 16, _Q2_K_BYTES)


@inlined
def put_twos(words, out, at, stride):
    """64 bytes: byte 32 h + l holds two bits each of values 128 h + l, + 32, + 64 and + 96, the first lowest."""
    for h in range(2):
        for i in range(8):
            word = splat_int(0)
            for quarter in range(4):
                word |= load(words, (32 * h + 8 * quarter + i) * LANES) << (2 * quarter)
            put_word(out, at + 32 * h + 4 * i, stride, word)


# -- kernels ---------------------------------------------------------------------------------------------------------


def _plain_45(top, start, steps, stride):
    """The kernel of a type of 8 sub-blocks without importance, for whole groups of LANES super-blocks."""

    @kernel
    def encode(values, out):
        x, w, levels = workspace(_SUPER), workspace(32), workspace(32)
        scales, minimums, inverses, lows = workspace(8), workspace(8), workspace(8), workspace(8)
        whole_scales, whole_minimums = workspace(8).view(np.int32), workspace(8).view(np.int32)
        words = workspace(_SUPER // 4).view(np.int32)
        for first in range(0, values.shape[0] // _SUPER, LANES):
            gather(values, first * _SUPER, _SUPER, _SUPER, x)
            for j in range(8):
                _rms_weights(x, 32 * j, 32, w)
                found = affine_search(x, 32 * j, w, levels, 32, top, start, 0.1, steps, False, False)
                _keep(found, j, scales, minimums, inverses, lows)
            d = _shared(scales, whole_scales, 8, 63, 63)
            dmin = _shared(minimums, whole_minimums, 8, 63, 63)
            at = first * stride
            _finish_45(x, d, dmin, whole_scales, whole_minimums, inverses, lows, top, False, words, out, at, stride)

    return encode


def _weighted_45(top, clip, stride):
    """The same with importance; ggml limits the whole scales of Q5_K once more (`clip`), not those of Q4_K."""

    @kernel
    def encode(values, weights, number, out):
        x, w, levels, sums = workspace(_SUPER), workspace(32), workspace(32), workspace(8)
        scales, minimums, inverses, lows = workspace(8), workspace(8), workspace(8), workspace(8)
        whole_scales, whole_minimums = workspace(8).view(np.int32), workspace(8).view(np.int32)
        words = workspace(_SUPER // 4).view(np.int32)
        columns = weights.shape[0] - LANES * _SUPER
        for first in range(0, values.shape[0] // _SUPER, LANES):
            gather(values, first * _SUPER, _SUPER, _SUPER, x)
            square = mean_square(x, 2)
            column = (number + first) * _SUPER % columns
            for j in range(8):
                gather(weights, column + 32 * j, _SUPER, 32, w)
                store(sums, j * LANES, importance_weights(x, 32 * j, 32, square, w))
                found = affine_search(x, 32 * j, w, levels, 32, top, -0.9, 0.05, 36, False)
                _keep(found, j, scales, minimums, inverses, lows)
            d = to_float16(positive_search(scales, sums, whole_scales, 8, 63))
            dmin = to_float16(positive_search(minimums, sums, whole_minimums, 8, 63))
            if clip:
                for j in range(8):
                    store(whole_scales, j * LANES, minimum(load(whole_scales, j * LANES), splat_int(63)))
                    store(whole_minimums, j * LANES, minimum(load(whole_minimums, j * LANES), splat_int(63)))
            at = first * stride
            _finish_45(x, d, dmin, whole_scales, whole_minimums, inverses, lows, top, True, words, out, at, stride)

    return encode


q4_k = _plain_45(15, -1.0, 20, _Q4_K_BYTES)
q4_k_weighted = _weighted_45(15, False, _Q4_K_BYTES)
q5_k = _plain_45(31, -0.5, 15, _Q5_K_BYTES)
q5_k_weighted = _weighted_45(31, True, _Q5_K_BYTES)


@kernel
def q2_k(values, out):
    """Q2_K of whole groups of LANES super-blocks."""
    x, w, levels = workspace(_SUPER), workspace(16), workspace(16)
    scales, minimums, inverses, lows = workspace(16), workspace(16), workspace(16), workspace(16)
    whole_scales, whole_minimums = workspace(16).view(np.int32), workspace(16).view(np.int32)
    words = workspace(_SUPER // 4).view(np.int32)
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        for j in range(16):
            _size_weights(x, 16 * j, 16, w)
            found = affine_search(x, 16 * j, w, levels, 16, 3, -0.5, 0.1, 15, True, False)
            _keep(found, j, scales, minimums, inverses, lows)
        d = _shared(scales, whole_scales, 16, 15, 255)
        dmin = _shared(minimums, whole_minimums, 16, 15, 255)
        at = first * _Q2_K_BYTES
        _finish_2(x, d, dmin, whole_scales, whole_minimums, inverses, lows, False, words, out, at)


@kernel
def q2_k_weighted(values, weights, number, out):
    """Q2_K with importance."""
    x, w, levels, sums = workspace(_SUPER), workspace(16), workspace(16), workspace(16)
    scales, minimums, inverses, lows = workspace(16), workspace(16), workspace(16), workspace(16)
    whole_scales, whole_minimums = workspace(16).view(np.int32), workspace(16).view(np.int32)
    words = workspace(_SUPER // 4).view(np.int32)
    columns = weights.shape[0] - LANES * _SUPER
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        square = mean_square(x, 1)
        column = (number + first) * _SUPER % columns
        for j in range(16):
            gather(weights, column + 16 * j, _SUPER, 16, w)
            store(sums, j * LANES, importance_weights(x, 16 * j, 16, square, w))
            found = affine_search(x, 16 * j, w, levels, 16, 3, -0.9, 0.05, 36, False)
            _keep(found, j, scales, minimums, inverses, lows)
        d = to_float16(positive_search(scales, sums, whole_scales, 16, 15))
        dmin = to_float16(positive_search(minimums, sums, whole_minimums, 16, 15))
        at = first * _Q2_K_BYTES
        _finish_2(x, d, dmin, whole_scales, whole_minimums, inverses, lows, True, words, out, at)
