"""ggml's search for blocks of IQ1_S and IQ1_M: values are about scale * (-1, 0 or 1, and an eighth up or down).

With the values of a block in order, the three levels are two cuts through them. ggml tries all pairs of cuts, and up or
down for the block (IQ1_S) or each half of it (IQ1_M), with sums made beforehand, and keeps what fits best by weighted
least squares. Then each group of 8 values becomes an entry of the codebook (`codebook_nearest.py`).

One block is in each lane, as in `simd.py`. Only few pairs of cuts can win: first some of them are tried, and in ggml's
own loop only what is at least about as good as the best of these changes anything. That the last best is the same
follows: what it is compared with is the same from the first pair on that is clearly better than the best of the few.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.codebook_nearest import METRIC, REST, SECTION, X, list_of, nearest_shifted, weigh, word_of_8
from quantize.simd import (
    LANES,
    any_lane,
    bits,
    counted_nowhere,
    fabs,
    gather,
    kernel,
    lane_bits,
    load,
    lowest_lane,
    maximum,
    put_byte,
    put_half,
    splat,
    splat_int,
    store,
    to_float,
    where,
    workspace,
)
from quantize.simd16 import LARGEST, prefetch

EIGHTH = np.float32(0.125)
_OFF_GRID = 1 << 16  # beside the number of an entry: the point was none

# Levels -1, 0 and 1, an eighth up and an eighth down
_U0, _U1, _U2 = np.float32(-0.875), np.float32(0.125), np.float32(1.125)
_D0, _D1, _D2 = np.float32(-1.125), np.float32(-0.125), np.float32(0.875)

# Where more things stand in the float32 room: of the values in order, sums up to each cut ...
_SUMS = SECTION + LANES  # one more than values
SUM_X, SUM_W = REST, REST + _SUMS
# ... and what follows from them, for the second cut
X_UP, X_DOWN, W_UP, W_DOWN = (REST + k * _SUMS for k in range(2, 6))
SHIFTS, SCALE = REST + 8 * _SUMS, REST + 8 * _SUMS + 2 * LANES
FLOATS = SCALE + LANES
RANK, WORD, CHOSEN, POINT = 0, SECTION, SECTION + 4 * LANES, SECTION + 8 * LANES
INTEGERS = POINT + 4 * LANES

_ORDINARY = 1e-15
"""Sums from here up to its inverse have no products that are infinite or denormal."""


@counted_nowhere
def _take(room, whole, blocks, first, n):
    """Fills the room with blocks from `first` on; returns their largest absolute values. RANK: places in order."""
    gather(blocks[0], first * n, n, n, room[X:])
    weigh(room, X, METRIC, blocks, first * n, n, n)
    largest = fabs(load(room, X))
    for j in range(n):
        value, rank = load(room, X + j * LANES), splat_int(0)
        largest = maximum(largest, fabs(value))
        for i in range(j):  # of equal values the first comes first
            behind = value < load(room, X + i * LANES)
            k = RANK + i * LANES
            store(whole, k, load(whole, k) + where(behind, splat_int(1), 0))
            rank += where(behind, splat_int(0), 1)
        store(whole, RANK + j * LANES, rank)
    return largest


@counted_nowhere
def _sum_up(room, whole, start, end, n, sum_x, sum_w):
    """Sums of w * x and of w of the values start..end, in order, up to each of the n + 1 cuts."""
    for k in range(0, (n + 1) * LANES, LANES):
        store(room, sum_x + k, splat(0))
        store(room, sum_w + k, splat(0))
    for i in range(start * LANES, end * LANES, LANES):
        for k in range(i, i + LANES):
            at = (whole[RANK + k] + 1) * LANES + k - i
            room[sum_x + at] = room[METRIC + k] * room[X + k]
            room[sum_w + at] = room[METRIC + k]
    x, w = splat(0), splat(0)
    for k in range(LANES, (n + 1) * LANES, LANES):
        x += load(room, sum_x + k)
        w += load(room, sum_w + k)
        store(room, sum_x + k, x)
        store(room, sum_w + k, w)


@counted_nowhere
def _prepare_s(room, n):
    """What the values behind the second cut add to the sums, for every such cut of a whole block."""
    x, w = load(room, SUM_X + n * LANES), load(room, SUM_W + n * LANES)
    for k in range(0, (n + 1) * LANES, LANES):
        behind, weight = x - load(room, SUM_X + k), w - load(room, SUM_W + k)
        store(room, X_UP + k, behind * _U2)
        store(room, X_DOWN + k, behind * _D2)
        store(room, W_UP + k, weight * _U2 * _U2)
        store(room, W_DOWN + k, weight * _D2 * _D2)


@counted_nowhere
def _pair_s(room, i, j):
    """For the cuts i and j: the sums of w * x * level and w * level**2, an eighth up; and both an eighth down."""
    x, w, k = load(room, SUM_X + i * LANES), load(room, SUM_W + i * LANES), j * LANES
    middle = (load(room, SUM_X + k) - x) * _U1
    weight = (load(room, SUM_W + k) - w) * _U1 * _U1
    return (
        x * _U0 + middle + load(room, X_UP + k),
        w * _U0 * _U0 + weight + load(room, W_UP + k),
        x * _D0 - middle + load(room, X_DOWN + k),
        w * _D0 * _D0 + weight + load(room, W_DOWN + k),
    )


@counted_nowhere
def _fits(product, square, best):
    return (square > 0) & (product * product > best * square)


@counted_nowhere
def _may_fit(product, square, best):
    """Wherever `_fits`, and in a few lanes more: there is little else in the innermost loop."""
    return product * product > best * square


@counted_nowhere
def _slightly_less(product, square, total):
    """A little less than the score of these sums, where no number came near the limits of floats."""
    score = product / square * (product * np.float32(1 - 2.0**-18))
    ordinary = (score > _ORDINARY) & (score < 1 / _ORDINARY) & (total > _ORDINARY) & (total < 1 / _ORDINARY)
    return where(ordinary, score, -np.float32(LARGEST))


@counted_nowhere
def _cuts_s(room, n, largest):
    """The best pair of cuts and direction, (i * 64 + j) * 2 + down, -1 where there is none; and the scale."""
    _prepare_s(room, n)
    score, weight = splat(0), splat(1)
    for i in range(0, n + 1, 4):
        for j in range(i, n + 1, 4):
            up, w_up, down, w_down = _pair_s(room, i, j)
            fits = (w_up > 0) & (up * up * weight > score * score * w_up)
            score, weight = where(fits, up, score), where(fits, w_up, weight)
            fits = (w_down > 0) & (down * down * weight > score * score * w_down)
            score, weight = where(fits, down, score), where(fits, w_down, weight)
    best = _slightly_less(score, weight, load(room, SUM_W + n * LANES))
    cuts, scale = splat_int(-1), largest
    for i in range(n + 1):
        for j in range(i, n + 1):
            up, w_up, down, w_down = _pair_s(room, i, j)
            if any_lane(_may_fit(up, w_up, best) | _may_fit(down, w_down, best)):
                fits = _fits(up, w_up, best)
                scale = where(fits, up / w_up, scale)
                best = where(fits, scale * up, best)
                cuts = where(fits, 2 * (64 * i + j), cuts)
                fits = _fits(down, w_down, best)
                scale = where(fits, down / w_down, scale)
                best = where(fits, scale * down, best)
                cuts = where(fits, 2 * (64 * i + j) + 1, cuts)
    return cuts, scale


@counted_nowhere
def _points(whole, n, i, j, turned):
    """Levels 0, 1 and 2 of all values, as the number of each group's point; `turned` swaps 0 and 2."""
    for group in range(n // 8):
        point = splat_int(0)
        for k in range((8 * group + 7) * LANES, (8 * group - 1) * LANES, -LANES):
            rank = load(whole, RANK + k)
            level = where(rank >= i, splat_int(1), 0) + where(rank >= j, splat_int(1), 0)
            point = (point << 1) + point + where(turned, 2 - level, level)
        store(whole, POINT + group * LANES, point)


@counted_nowhere
def _enter(room, whole, n, active, book):
    """Makes entries of all groups; returns the lanes in which ggml finds none."""
    failed = np.uint64(0)
    for group in range(n // 8):
        ahead = pending = active
        while ahead:
            count, first = list_of(book[0], whole[POINT + group * LANES + lowest_lane(ahead)])
            for k in range(first, first + count, 32):
                prefetch(book[1], k)
            ahead &= ahead - np.uint64(1)
        while pending:
            lane = lowest_lane(pending)
            pending &= pending - np.uint64(1)
            at = group * LANES + lane
            count, code = list_of(book[0], whole[POINT + at])
            flag = 0
            if count > 0:
                shift, first = room[SHIFTS + (group * 16 // n) * LANES + lane], code
                position = nearest_shifted(
                    room, group * 8 * LANES + lane, room[SCALE + lane], shift, book[1], first, count
                )
                if position < 0:
                    failed |= np.uint64(1) << np.uint64(lane)
                    position = np.int32(0)
                code, flag = np.int32(book[1][first + position]), _OFF_GRID
            whole[WORD + at], whole[CHOSEN + at] = word_of_8(code), code | flag
    return failed


@counted_nowhere
def _fitted_again(room, whole, n, scale):
    """The scale that fits the entries, in the lanes where a group was none."""
    product, square, off = splat(0), splat(0), splat_int(0)
    for group in range(n // 8):
        off |= load(whole, CHOSEN + group * LANES)
        word = load(whole, WORD + group * LANES)
        shift = load(room, SHIFTS + (group * 16 // n) * LANES) - 1.5
        for i in range(8):
            k = (8 * group + i) * LANES
            weight, level = load(room, METRIC + k), to_float((word >> 4 * i) & 15) * 0.5 + shift
            product += weight * level * load(room, X + k)
            square += weight * level * level
    return where((off >= _OFF_GRID) & (product > 0) & (square > 0), product / square, scale)


@counted_nowhere
def _finish(room, whole, first, n, live, turns, book, found):
    """Entries and scales of LANES blocks from `first` on, whose points and shifts are in the room.

    `turns` is what is kept of the directions; room[SCALE:] has the scales.
    """
    numbers, kinds, scales = found
    failed = _enter(room, whole, n, lane_bits(live), book)
    scale = _fitted_again(room, whole, n, load(room, SCALE))
    store(room, SCALE, where(live, scale, 0))
    for lane in range(LANES):
        scales[first + lane] = np.float32(np.inf) if failed >> np.uint64(lane) & np.uint64(1) else room[SCALE + lane]
    groups = n // 8
    for group in range(groups):
        for k in range(CHOSEN + group * LANES, CHOSEN + group * LANES + LANES):
            whole[k] = book[2][whole[k] & (_OFF_GRID - 1)]
        number = where(live, load(whole, CHOSEN + group * LANES), 0)
        put_half(numbers, 2 * (first * groups + group), 2 * groups, number)
    put_byte(kinds, first, 1, where(live, turns, 0))


@counted_nowhere
def _search_s(room, whole, blocks, book, found):
    n, count = 32, found[2].size
    for at in range(0, count, LANES):
        first = min(at, count - LANES)  # the last lanes search for some blocks once more
        largest = _take(room, whole, blocks, first, n)
        _sum_up(room, whole, 0, n, n, SUM_X, SUM_W)
        cuts, scale = _cuts_s(room, n, largest)
        live = ~(largest < np.float32(1e-12)) & (cuts >= 0)
        turned = scale < 0
        _points(whole, n, cuts >> 7, (cuts >> 1) & 63, turned)
        down = where(turned, 1 - (cuts & 1), cuts & 1)
        store(room, SCALE, where(turned, -scale, scale))
        store(room, SHIFTS, where(down == 0, splat(EIGHTH), -EIGHTH))
        store(room, SHIFTS + LANES, load(room, SHIFTS))
        _finish(room, whole, first, n, live, down, book, found)


@kernel
def search_s(blocks, book, found):
    """Entries, directions and scales of blocks of IQ1_S, 32 values.

    `blocks` are at least LANES, as superblocks.py makes them; `book` the arrays of the
    codebook. Filled are in `found` the numbers (uint16 of each group, as bytes), the directions (a byte of each block,
    1 for down) and the scales (of each block; infinite where ggml finds no entry).
    """
    room, whole = workspace(-(-FLOATS // LANES)), np.empty(INTEGERS, np.int32)
    _search_s(room, whole, blocks, book, found)


# -- IQ1_M: each half of a block has its own direction ---------------------------------------------------------------

# Sums of each half up to a cut; what the second cut takes from the sums of w * level**2, up and down
_X, _W = (REST, REST + 2 * _SUMS), (REST + _SUMS, REST + 3 * _SUMS)
_UP_W, _DOWN_W = (REST + 4 * _SUMS, REST + 6 * _SUMS), (REST + 5 * _SUMS, REST + 7 * _SUMS)


@counted_nowhere
def _prepare_m(room, n):
    """What the second cut, at every place, adds to the sums of w * level**2 of each half."""
    for k in range(0, (n + 1) * LANES, LANES):
        for half in range(2):
            weight = load(room, _W[half] + k)
            store(room, _UP_W[half] + k, weight * (_U1 * _U1 - _U2 * _U2))
            store(room, _DOWN_W[half] + k, weight * (_D1 * _D1 - _D2 * _D2))


@counted_nowhere
def _half_m(room, n, i, j, half):
    """For the cuts i and j: a half's sums of w * x * level and w * level**2, up; and both down."""
    x = load(room, _X[half] + i * LANES) + load(room, _X[half] + j * LANES)
    w, k = load(room, _W[half] + i * LANES), j * LANES
    all_x, all_w = load(room, _X[half] + n * LANES), load(room, _W[half] + n * LANES)
    return (
        all_x * _U2 - x,
        all_w * _U2 * _U2 + w * (_U0 * _U0 - _U1 * _U1) + load(room, _UP_W[half] + k),
        all_x * _D2 - x,
        all_w * _D2 * _D2 + w * (_D0 * _D0 - _D1 * _D1) + load(room, _DOWN_W[half] + k),
    )


@counted_nowhere
def _pair_m(room, n, i, j):
    """For the cuts i and j: the sums, with the directions of the halves up up, up down, down up and down down."""
    up, w_up, down, w_down = _half_m(room, n, i, j, 0)
    up2, w_up2, down2, w_down2 = _half_m(room, n, i, j, 1)
    products = up + up2, up + down2, down + up2, down + down2
    return products, (w_up + w_up2, w_up + w_down2, w_down + w_up2, w_down + w_down2)


@counted_nowhere
def _cuts_m(room, n, largest):
    """The best pair of cuts and directions, (i * 64 + j) * 4 + directions, -1 where there is none; and the scale."""
    _prepare_m(room, n)
    score, weight = splat(0), splat(1)
    for i in range(0, n + 1, 2):
        for j in range(i, n + 1, 2):
            products, squares = _pair_m(room, n, i, j)
            for k in range(4):
                product, square = products[k], squares[k]
                fits = (square > 0) & (product * product * weight > score * score * square)
                score, weight = where(fits, product, score), where(fits, square, weight)
    total = load(room, _W[0] + n * LANES) + load(room, _W[1] + n * LANES)
    best = _slightly_less(score, weight, total)
    cuts, scale = splat_int(-1), largest
    for i in range(n + 1):
        for j in range(i, n + 1):
            products, squares = _pair_m(room, n, i, j)
            fits = _may_fit(products[0], squares[0], best) | _may_fit(products[1], squares[1], best)
            fits |= _may_fit(products[2], squares[2], best) | _may_fit(products[3], squares[3], best)
            if any_lane(fits):
                for k in range(4):
                    product, square = products[k], squares[k]
                    fits = _fits(product, square, best)
                    if not any_lane(fits):
                        continue
                    scale = where(fits, product / square, scale)
                    best = where(fits, scale * product, best)
                    cuts = where(fits, 4 * (64 * i + j) + k, cuts)
    return cuts, scale


@counted_nowhere
def _search_m(room, whole, blocks, book, found):
    n, count = 16, found[2].size
    for at in range(0, count, LANES):
        first = min(at, count - LANES)
        largest = _take(room, whole, blocks, first, n)
        for half in range(2):
            _sum_up(room, whole, 8 * half, 8 * half + 8, n, _X[half], _W[half])
        cuts, scale = _cuts_m(room, n, largest)
        live = ~(largest < np.float32(1e-7)) & (cuts >= 0)
        turned = scale < 0
        _points(whole, n, cuts >> 8, (cuts >> 2) & 63, turned)
        directions = where(turned, 3 - (cuts & 3), cuts & 3)
        store(room, SCALE, where(turned, -scale, scale))
        store(room, SHIFTS, where(directions < 2, splat(EIGHTH), -EIGHTH))
        store(room, SHIFTS + LANES, where((directions & 1) == 0, splat(EIGHTH), -EIGHTH))
        _finish(room, whole, first, n, live, directions, book, found)


@kernel
def search_m(blocks, book, found):
    """The same of blocks of IQ1_M, 16 values; directions are of both halves, 2 and 1 for down."""
    room, whole = workspace(-(-FLOATS // LANES)), np.empty(INTEGERS, np.int32)
    _search_m(room, whole, blocks, book, found)


@kernel
def final_sums(blocks, words, shifts, odds, sums):
    """The sums of w * q * x and w * q * q over each super-block, in order, q = odd * (level + shift).

    `blocks` are at least LANES super-blocks, as superblocks.py makes them; of each group of 8 values there is the
    word of its entry (int32, as float32), a shift and an odd number. `sums` are filled, two for each super-block.
    """
    room = workspace(2 * 32 + 3 * 32)
    for at in range(0, sums[0].size, LANES):
        first = min(at, sums[0].size - LANES)
        product, square = splat(0), splat(0)
        for k, source in enumerate((words, shifts, odds)):
            gather(source, first * 32, 32, 32, room[(2 + k) * SECTION :])
        for start in range(0, 256, 32):
            gather(blocks[0], first * 256 + start, 256, 32, room)
            weigh(room, 0, SECTION, blocks, first * 256 + start, 32, 256)
            for i in range(32):
                k, group = i * LANES, 2 * SECTION + (start + i) // 8 * LANES
                level = to_float((bits(load(room, group)) >> 4 * (i & 7)) & 15) * 0.5 - 1.5
                q = (level + load(room, group + SECTION)) * load(room, group + 2 * SECTION)
                product += load(room, SECTION + k) * q * load(room, k)
                square += load(room, SECTION + k) * q * q
        store(sums[0], first, product)
        store(sums[1], first, square)
