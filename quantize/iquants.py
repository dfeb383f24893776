"""IQ4_NL and IQ4_XS: 4-bit levels that are not equally far apart.

A value is about d * LEVELS[i]. ggml tries 15 scales near the one that puts the block's furthest value on the lowest
level, and looks every value up among the levels every time. Two facts replace nearly all of that work:

- Looking up is comparing with the middles between neighbouring levels: the upper level from the middle on. ggml
  compares the distances to both levels, in float32; near a middle they are exact, so the outcome is the same.
- The scales differ by a factor of 134 / 120 at most, and of two neighbouring middles of one sign the larger is over 1.2
  times the other. So in all trials a value passes one middle at most, the largest one that it ever reaches, and what
  ggml adds to its sums for it is one of two numbers, known before the first trial.

Layouts, little-endian (ggml-common.h):

    IQ4_NL  d float16, 16 bytes: byte j holds index j in its low half, index j + 16 in its high half
    IQ4_XS  d, the high 2 bits of 8 scales, their low 4 bits, 8 times such 16 bytes; a block has d * (scale - 32)

Source: ggml-quants.c, quantize_row_iq4_nl_impl.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from __future__ import annotations

from itertools import pairwise

import numpy as np

from quantize.blocks import TYPES
from quantize.halves import half
from quantize.importance import BLOCK, SCRATCH, mean_squares, padded, repeated, weigh
from quantize.searches import EPSILON
from quantize.simd import LANES, fabs, gather, inlined, kernel, load, maximum, splat, store, where
from quantize.simd32 import load_block, nearest_whole, passed, store_nibbles, store_uint16, store_uint32

LEVELS = (-127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0)
MIDDLES = tuple((low + high) / 2 for low, high in pairwise(LEVELS))
TRIALS = tuple(LEVELS[0] + step for step in range(-7, 8))
"""What the value furthest from zero is mapped to, one after the other."""

_SUPER = 8  # blocks in a super-block


def iq4_nl(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 32 * 18) of float32 `values` (rows, n), n a multiple of 32; `weights` (n,): importance."""
    out, flat, scales = _search(values, weights, "IQ4_NL")
    _pack_nl(flat, scales, out.reshape(-1))
    return out


def iq4_xs(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, n / 256 * 136) of float32 `values` (rows, n), n a multiple of 256; `weights` (n,): importance."""
    out, flat, scales = _search(values, weights, "IQ4_XS")
    _pack_xs(flat, scales, out.reshape(-1))
    return out


def _search(values: np.ndarray, weights: np.ndarray | None, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Room for the blocks of a type, the values in one row (see padded), the scale of every 32 of them."""
    out = np.empty((len(values), TYPES[name].row_bytes(values.shape[1])), np.uint8)
    flat = padded(values)
    scales = np.empty(flat.size // BLOCK, np.float32)
    if weights is None:
        _plain_search(flat, scales)
    else:
        run = TYPES[name].values
        sigma2 = mean_squares(flat, run, lambda sums: sums * np.float32(2 / run))
        _weighted_search(flat, repeated(weights, values.shape[1]), sigma2, scales)
    return out, flat, scales


@kernel
def _plain_search(x, scales):
    room = np.empty((7, SCRATCH), np.float32)
    for group in range(0, scales.size, LANES):
        first = min(group, scales.size - LANES)  # the last lanes search for some blocks once more
        gather(x, first * BLOCK, BLOCK, BLOCK, room[0])
        for i in range(0, SCRATCH, LANES):
            value = load(room[0], i)
            store(room[1], i, value * value)
        store(scales, first, _best_scale(room))


@kernel
def _weighted_search(x, weights, sigma2, scales):
    room = np.empty((7, SCRATCH), np.float32)
    for group in range(0, scales.size, LANES):
        first = min(group, scales.size - LANES)
        gather(x, first * BLOCK, BLOCK, BLOCK, room[0])
        weigh(weights, sigma2, first, room[0], room[1])
        store(scales, first, _best_scale(room))


@inlined
def _best_scale(room):
    """The scale of the block in each lane; its values are in room[0], their weights in room[1], the rest is free."""
    values, middles = room[0], room[2]
    furthest, size = splat(0), splat(0)
    for i in range(0, SCRATCH, LANES):
        value = load(values, i)
        further = fabs(value) > size
        furthest = where(further, value, furthest)
        size = where(further, fabs(value), size)
    product, square = _first_sums(room, furthest)
    scale = where(square > 0, product / square, 0)
    best = scale * product
    for trial in TRIALS:
        inverse = trial / furthest
        product, square = splat(0), splat(0)
        for i in range(0, SCRATCH, LANES):
            above = inverse * load(values, i) >= load(middles, i)
            product += where(above, load(room[4], i), load(room[3], i))
            square += where(above, load(room[6], i), load(room[5], i))
        better = (square > 0) & (product * product > best * square)
        scale = where(better, product / square, scale)
        best = where(better, scale * product, best)
    return where(size < EPSILON, 0, scale)


@inlined
def _first_sums(room, furthest):
    """The sums of w * level * x and w * level**2 for the scale that puts `furthest` on minus the lowest level.

    Prepares the trials, too: room[2] gets the middle each value may pass, room[3] and room[4] what it adds to the first
    sum below the middle and from it on, room[5] and room[6] what it adds to the second.
    """
    inverse = 1 / (-furthest / LEVELS[0])
    longest, shortest = TRIALS[0] / furthest, TRIALS[-1] / furthest
    product, square = splat(0), splat(0)
    for i in range(0, SCRATCH, LANES):
        value, weight = load(room[0], i), load(room[1], i)
        first = inverse * value
        reached = maximum(longest * value, shortest * value)
        level = below = above = splat(LEVELS[0])
        middle = splat(MIDDLES[0])
        for k in range(len(MIDDLES)):
            level = where(first >= MIDDLES[k], LEVELS[k + 1], level)
            beyond = reached >= MIDDLES[k]
            middle = where(beyond, MIDDLES[k], middle)
            below = where(beyond, LEVELS[k], below)
            above = where(beyond, LEVELS[k + 1], above)
        product += weight * level * value
        square += weight * level * level
        store(room[2], i, middle)
        store(room[3], i, weight * below * value)
        store(room[4], i, weight * above * value)
        store(room[5], i, weight * below * below)
        store(room[6], i, weight * above * above)
    return product, square


@kernel
def _pack_nl(x, scales, out):
    for block in range(out.size // 18):
        scale = scales[block]
        inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
        store_uint16(out, 18 * block, half(scale))
        store_nibbles(out, 18 * block + 2, passed(load_block(x, BLOCK * block) * inverse, MIDDLES))


@kernel
def _pack_xs(x, scales, out):
    for block in range(out.size // 136):
        at, first = 136 * block, _SUPER * block
        largest = np.float32(0)
        for k in range(first, first + _SUPER):
            if abs(scales[k]) > abs(largest):
                largest = scales[k]
        scale = -largest / np.float32(32)
        inverse = np.float32(1) / scale if scale != 0 else np.float32(0)
        high_bits = low_bits = np.uint32(0)
        for k in range(_SUPER):
            factor = max(-32, min(31, nearest_whole(inverse * scales[first + k])))
            block_scale = scale * np.float32(factor)
            block_inverse = np.float32(1) / block_scale if block_scale != 0 else np.float32(0)
            levels = passed(load_block(x, BLOCK * (first + k)) * block_inverse, MIDDLES)
            store_nibbles(out, at + 8 + 16 * k, levels)
            low_bits |= np.uint32(factor + 32 & 15) << np.uint32(4 * k)
            high_bits |= np.uint32(factor + 32 >> 4) << np.uint32(2 * k)
        store_uint16(out, at, half(scale))
        store_uint16(out, at + 2, np.uint16(high_bits))
        store_uint32(out, at + 4, low_bits)
