"""Kernels of Q3_K and Q6_K: x = d * scale * level, in sub-blocks of 16 (ggml-quants.c).

Lanes and words as in kquants_affine.py. Levels are stored from 0 on: 4 or 32 is zero. In a sub-block that is all
zeros ggml leaves the stored level 0, which counts only where the stored scale is 0 too.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.kquants_affine import importance_weights, mean_square, put_twos
from quantize.searches import EPSILON, refined_search, symmetric_search
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
    nearest_level,
    put_half,
    put_word,
    splat,
    splat_int,
    store,
    to_float,
    to_float16,
    where,
    workspace,
)

_SUPER = 256
_Q3_K_BYTES = 110
_Q6_K_BYTES = 210


@inlined
def _extreme(scales):
    """The first of the 16 scales of largest size."""
    largest, extreme = splat(0), splat(0)
    for j in range(16):
        scale = load(scales, j * LANES)
        size = fabs(scale)
        extreme = where(size > largest, scale, extreme)
        largest = maximum(size, largest)
    return extreme


@inlined
def _square_weights(x, at, w):
    for i in range(16):
        v = load(x, (at + i) * LANES)
        store(w, i * LANES, v * v)


@inlined
def _levels(x, at, d, kept, top, words):
    """Vector at/4.. of `words`: stored levels of x for the stored scale, four a word; those of `kept` where d is 0."""
    unscaled = d == 0
    some_unscaled = any_lane(unscaled)
    for i in range(0, 16, 4):
        word = splat_int(0)
        for b in range(4):
            at_b = (at + i + b) * LANES
            level = limited(nearest_int(load(x, at_b) / d), -top, top - 1) + top
            if some_unscaled:
                level = where(unscaled, nearest_int(load(kept, at_b)), level)
            word |= level << (8 * b)
        store(words, (at + i) // 4 * LANES, word)


@inlined
def _keep_levels(x, at, inverse, zeros, top, kept):
    for i in range(16):
        level = nearest_level(inverse * load(x, (at + i) * LANES), -top, top - 1) + np.float32(top)
        store(kept, (at + i) * LANES, where(zeros, 0, level))


@inlined
def _finish_3(x, d, scales, kept, words, out, at):
    """Block: 32 bytes of third bits, 64 bytes of low two bits, 12 bytes of 6-bit scales, d (float16).

    Byte j of the 12, j < 8: the low four bits of scale j and of scale j + 8; byte 8 + j: two high bits of scales
    j, j + 4, j + 8 and j + 12.
    """
    put_half(out, at + 108, _Q3_K_BYTES, d)
    d = from_float16(d)
    for j in range(16):
        _levels(x, 16 * j, d * to_float(load(scales, j * LANES) - 32), kept, 4, words)
    for i in range(3):
        word = splat_int(0)
        for b in range(4):
            if i < 2:
                low, high = load(scales, (4 * i + b) * LANES), load(scales, (4 * i + b + 8) * LANES)
                byte = (low & 0xF) | (high & 0xF) << 4
            else:
                byte = splat_int(0)
                for quarter in range(4):
                    byte |= load(scales, (4 * quarter + b) * LANES) >> 4 << (2 * quarter)
            word |= byte << (8 * b)
        put_word(out, at + 96 + 4 * i, _Q3_K_BYTES, word)
    for i in range(8):  # word i: bit j of byte b is the third bit of value 32 j + 4 i + b
        word = splat_int(0)
        for j in range(8):
            word |= (load(words, (8 * j + i) * LANES) >> 2 & 0x01010101) << j
        put_word(out, at + 4 * i, _Q3_K_BYTES, word)
    for i in range(_SUPER // 4):
        store(words, i * LANES, load(words, i * LANES) & 0x03030303)
    put_twos(words, out, at + 32, _Q3_K_BYTES)


@kernel
def q3_k(values, out):
    """Q3_K of whole groups of LANES super-blocks."""
    x, kept, scales = workspace(_SUPER), workspace(_SUPER), workspace(16)
    whole = workspace(16).view(np.int32)
    words = workspace(_SUPER // 4).view(np.int32)
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        for j in range(16):
            scale, zeros = refined_search(x, 16 * j, kept, 16, 4)
            store(scales, j * LANES, scale)
            for i in range(16 * j, 16 * j + 16):
                store(kept, i * LANES, where(zeros, 0, load(kept, i * LANES) + np.float32(4)))
        extreme = _extreme(scales)
        inverse = np.float32(-32) / extreme
        for j in range(16):
            level = nearest_int(inverse * load(scales, j * LANES)) << 24 >> 24  # ggml's int8
            store(whole, j * LANES, where(extreme == 0, 0, limited(level, -32, 31) + 32))
        d = where(extreme == 0, 0, to_float16(np.float32(1) / inverse))
        _finish_3(x, d, whole, kept, words, out, first * _Q3_K_BYTES)


@kernel
def q3_k_weighted(values, weights, number, out):
    """Q3_K with importance."""
    x, kept, scales, sums = workspace(_SUPER), workspace(_SUPER), workspace(16), workspace(16)
    w, wx, whole_scales = workspace(16), workspace(16), workspace(16)
    whole = workspace(16).view(np.int32)
    words = workspace(_SUPER // 4).view(np.int32)
    columns = weights.shape[0] - LANES * _SUPER
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        square = mean_square(x, 2)
        column = (number + first) * _SUPER % columns
        for j in range(16):
            gather(weights, column + 16 * j, _SUPER, 16, w)
            store(sums, j * LANES, importance_weights(x, 16 * j, 16, square, w))
            scale, inverse, zeros = symmetric_search(x, 16 * j, w, wx, 16, 4)
            store(scales, j * LANES, scale)
            _keep_levels(x, 16 * j, inverse, zeros, 4, kept)
        d, inverse, zeros = symmetric_search(scales, 0, sums, wx, 16, 32)
        _keep_levels(scales, 0, inverse, zeros, 32, whole_scales)
        for j in range(16):
            store(whole, j * LANES, nearest_int(load(whole_scales, j * LANES)))
        _finish_3(x, to_float16(d), whole, kept, words, out, first * _Q3_K_BYTES)


@inlined
def _finish_6(x, scales, kept, words, out, at):
    """Block: 128 bytes of low four bits, 64 bytes of high two bits, 16 8-bit scales, d (float16).

    Of values 128 h + l, + 32, + 64, + 96: bytes 64 h + l and + 32 hold the low bits of the first two, above them those
    of the last two; byte 32 h + l of the second part holds the high bits of all four. All zeros, so is the block.
    """
    extreme = _extreme(scales)
    used = where(fabs(extreme) < EPSILON, splat_int(0), splat_int(-1))
    inverse = np.float32(-128) / extreme
    half = to_float16(np.float32(1) / inverse)
    d = from_float16(half)
    put_half(out, at + 208, _Q6_K_BYTES, half & used)
    for i in range(4):
        word = splat_int(0)
        for b in range(4):
            scale = minimum(nearest_int(inverse * load(scales, (4 * i + b) * LANES)), splat_int(127)) << 24
            _levels(x, 64 * i + 16 * b, d * to_float(scale >> 24), kept, 32, words)
            word |= (scale >> 24 & 0xFF) << (8 * b)
        put_word(out, at + 192 + 4 * i, _Q6_K_BYTES, word & used)
    for h in range(2):
        for i in range(8):
            of = (32 * h + i) * LANES
            q0, q1 = load(words, of) & used, load(words, of + 8 * LANES) & used
            q2, q3 = load(words, of + 16 * LANES) & used, load(words, of + 24 * LANES) & used
            put_word(out, at + 64 * h + 4 * i, _Q6_K_BYTES, (q0 & 0x0F0F0F0F) | (q2 & 0x0F0F0F0F) << 4)
            put_word(out, at + 64 * h + 32 + 4 * i, _Q6_K_BYTES, (q1 & 0x0F0F0F0F) | (q3 & 0x0F0F0F0F) << 4)
            q0, q1, q2, q3 = q0 >> 4, q1 >> 4, q2 >> 4, q3 >> 4
            high = (q0 & 0x03030303) | (q1 & 0x03030303) << 2 | (q2 & 0x03030303) << 4 | (q3 & 0x03030303) << 6
            put_word(out, at + 128 + 32 * h + 4 * i, _Q6_K_BYTES, high)


@kernel
def q6_k(values, out):
    """Q6_K of whole groups of LANES super-blocks."""
    x, kept, scales, w, wx = workspace(_SUPER), workspace(_SUPER), workspace(16), workspace(16), workspace(16)
    words = workspace(_SUPER // 4).view(np.int32)
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        for j in range(16):
            _square_weights(x, 16 * j, w)
            scale, inverse, zeros = symmetric_search(x, 16 * j, w, wx, 16, 32)
            store(scales, j * LANES, scale)
            _keep_levels(x, 16 * j, inverse, zeros, 32, kept)
        _finish_6(x, scales, kept, words, out, first * _Q6_K_BYTES)


@kernel
def q6_k_weighted(values, weights, number, out):
    """Q6_K with importance, which ggml takes as the weights themselves."""
    x, kept, scales, w, wx = workspace(_SUPER), workspace(_SUPER), workspace(16), workspace(16), workspace(16)
    words = workspace(_SUPER // 4).view(np.int32)
    columns = weights.shape[0] - LANES * _SUPER
    for first in range(0, values.shape[0] // _SUPER, LANES):
        gather(values, first * _SUPER, _SUPER, _SUPER, x)
        column = (number + first) * _SUPER % columns
        for j in range(16):
            gather(weights, column + 16 * j, _SUPER, 16, w)
            scale, inverse, zeros = symmetric_search(x, 16 * j, w, wx, 16, 32)
            store(scales, j * LANES, scale)
            _keep_levels(x, 16 * j, inverse, zeros, 32, kept)
        _finish_6(x, scales, kept, words, out, first * _Q6_K_BYTES)
