"""ggml's search for the scale of a block whose groups of values become entries of a codebook: IQ2 and IQ3.

For every trial of a scale, ggml rounds each group to levels, and where that point is no entry of the codebook it
measures how far each entry near it is (`codebooks.py`). The trial whose entries fit best, by weighted least squares,
wins.

One block is in each lane, as in `simd.py`, and every sum is in ggml's order. Entries are measured sixteen at a time:
a coordinate has few levels, so what it adds to a distance is looked up among as many numbers.

Most of that is not done at all. With weights w, an entry e is at the squared distance

    sum w * (scale * e - x)**2 = scale**2 * A - 2 * scale * B + C,   A = sum w * e**2

so the differences between entries, divided by the scale, are straight lines: from the distances and the A of all
entries near a point follows down to which scale the nearest one stays the nearest. The scales of a block
only fall, so until then, while the point stays the same, so does the entry. A bound on what rounding can do to the
computed distances is taken off: only where the order is certain nothing is measured.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.codebook_nearest import (
    METRIC,
    REST,
    SECTION,
    X,
    list_of,
    nearest_of_4,
    nearest_of_8,
    weigh,
    word_of_4,
    word_of_8,
)
from quantize.searches import positive_search
from quantize.simd import (
    LANES,
    any_lane,
    counted_nowhere,
    gather,
    kernel,
    lane_bits,
    load,
    lowest_lane,
    maximum,
    nearest_level,
    no_lane,
    put_byte,
    put_half,
    splat,
    splat_int,
    sqrt,
    store,
    to_float,
    where,
    workspace,
)
from quantize.simd16 import prefetch

THOSE_OFF_GRID, ALL_OR_NONE, ALL = 0, 1, 2
"""What is rounded again with the best scale: groups that were no entries; if any was none, all groups; all groups."""

OFF_GRID = 1 << 16
"""Beside the number of an entry: the point was none."""

# Where more things stand in the float32 room, and in the int32 one: a vector a value, or a vector a group
_GROUPS = 8 * LANES
W, WX = REST, REST + SECTION
SEEN, UNTIL, ENERGY = (REST + 2 * SECTION + k * _GROUPS for k in range(3))
SCALE, INVERSE = REST + 3 * SECTION, REST + 3 * SECTION + LANES
FLOATS = INVERSE + LANES
WORD, CHOSEN, PICKED, SIGNS = (k * _GROUPS for k in range(4))
LEVELS = 4 * _GROUPS
INTEGERS = LEVELS + SECTION


def _entering(nearest, word_of, size, top):
    """The function that makes entries of the values of a group, for groups of `size` values with levels 0..`top`."""

    @counted_nowhere
    def choose(room, whole, lane, group, book):
        """Makes an entry of what the group of one lane was rounded to; False where ggml finds none."""
        lists, codes, _ = book
        at = group * LANES + lane
        count, code = list_of(lists, np.int64(room[SEEN + at]))
        last, flag = -np.float32(np.inf), 0
        if count > 0:
            first, position, flag = code, np.int32(0), OFF_GRID
            if count > 1:
                values, scale, inverse = group * size * LANES + lane, room[SCALE + lane], room[INVERSE + lane]
                position, last = nearest(room, values, scale, inverse, room[ENERGY + at], codes, first, count)
                if position < 0:
                    return False
            code = np.int32(codes[first + position])
        room[UNTIL + at], whole[WORD + at], whole[CHOSEN + at] = last, word_of(code), code | flag
        return True

    @counted_nowhere
    def enter(room, whole, group, inverse, scale, active, book):
        """Rounds a group in all lanes to levels, and chooses entries in the `active` lanes where they may be others.

        `scale` is about 1 / `inverse`. Returns the lanes in which ggml finds no entry.
        """
        point, digit, at = splat(0), np.float32(1), group * LANES
        for i in range(group * size, group * size + size):
            level = nearest_level(0.5 * (inverse * load(room, X + i * LANES) - 1), 0, top)
            point += level * digit
            digit *= np.float32(top + 1)
        changed = (point != load(room, SEEN + at)) | ~(scale > load(room, UNTIL + at))
        pending, failed = lane_bits(changed) & active, np.uint64(0)
        if pending:
            store(room, SEEN + at, point)
            store(room, SCALE, scale)
            store(room, INVERSE, inverse)
        ahead = pending
        while ahead:
            _, first = list_of(book[0], np.int64(room[SEEN + at + lowest_lane(ahead)]))
            prefetch(book[1], first)
            ahead &= ahead - np.uint64(1)
        while pending:
            lane = lowest_lane(pending)
            pending &= pending - np.uint64(1)
            if not choose(room, whole, lane, group, book):
                failed |= np.uint64(1) << np.uint64(lane)
        return failed

    return enter


@counted_nowhere
def _take(room, whole, blocks, first, n, even):
    """Fills the room with blocks from `first` on; returns their largest values.

    Signs are apart, eight in a byte. Where their number must be `even`, the value of eight that matters least gets
    the other sign where it is not, and seven are kept.
    """
    gather(blocks[0], first * n, n, n, room[X:])
    weigh(room, X, W, blocks, first * n, n, n)
    for eight in range(0, n, 8):
        value, at = load(room, X + eight * LANES), splat_int(0)
        signs, odd = splat_int(0), no_lane()
        lowest = load(room, W + eight * LANES) * value * value
        for i in range(8):
            k = (eight + i) * LANES
            value, weight = load(room, X + k), load(room, W + k)
            negative = ~(value >= 0)
            odd ^= negative
            signs |= where(negative, splat_int(1 << i), 0)
            loss = weight * value * value
            at = where(loss < lowest, i, at)
            lowest = where(loss < lowest, loss, lowest)
            store(room, X + k, where(negative, -value, value))
            store(room, METRIC + k, sqrt(weight))
        if even:
            for i in range(8):
                k = (eight + i) * LANES
                value = load(room, X + k)
                store(room, X + k, where(odd & (at == i), -value, value))
            signs = (signs ^ where(odd, splat_int(1) << at, 0)) & 127
        store(whole, SIGNS + eight // 8 * LANES, signs)
    largest = load(room, X)
    for i in range(n):
        value = load(room, X + i * LANES)
        largest = maximum(largest, value)
        store(room, WX + i * LANES, load(room, W + i * LANES) * value)
    return largest


@counted_nowhere
def _energies(room, groups, size):
    """Of each group the sum of weight * value**2, with the weights of distances."""
    for group in range(groups):
        energy = splat(0)
        for i in range(group * size * LANES, (group + 1) * size * LANES, LANES):
            value = load(room, X + i)
            energy += load(room, METRIC + i) * value * value
        store(room, ENERGY + group * LANES, energy)


@counted_nowhere
def _sums(room, whole, groups, size):
    """Sums of w * x * q and w * q * q, q the numbers of the entries chosen."""
    product, square = splat(0), splat(0)
    for group in range(groups):
        word = load(whole, WORD + group * LANES)
        for i in range(size):
            k = (group * size + i) * LANES
            q = to_float((word >> 4 * i) & 15)
            product += load(room, WX + k) * q
            square += load(room, W + k) * q * q
    return product, square


def _searching(nearest, word_of, size, top):
    """The search of a family of types, whose groups have `size` values with levels 0..`top`."""
    enter = _entering(nearest, word_of, size, top)

    @counted_nowhere
    def best_trial(room, whole, groups, trials, reach, scale, active, book):
        """The scale whose entries fit best, and the lanes in which ggml fails; `picked` gets the entries."""
        best, failed = splat(0), np.uint64(0)
        for t in range(trials.size):
            inverse = trials[t] / reach
            for group in range(groups):
                failed |= enter(room, whole, group, inverse, np.float32(1) / inverse, active, book)
            product, square = _sums(room, whole, groups, size)
            better = (square > 0) & (product * product > best * square)
            if any_lane(better):
                scale = where(better, product / square, scale)
                best = where(better, scale * product, best)
                for k in range(0, groups * LANES, LANES):
                    store(whole, PICKED + k, where(better, load(whole, CHOSEN + k), load(whole, PICKED + k)))
        return scale, failed

    @counted_nowhere
    def once_more(room, whole, groups, scale, live, again, book):
        """The scale after groups were rounded with the best one, and the lanes in which ggml fails."""
        off = splat_int(OFF_GRID if again == ALL else 0)
        for k in range(0, groups * LANES, LANES):
            off |= load(whole, PICKED + k)
        rounded = live & (scale > 0) & (off >= OFF_GRID)
        failed = np.uint64(0)
        if not any_lane(rounded):
            return scale, failed
        for group in range(groups):
            k = group * LANES
            store(room, UNTIL + k, splat(np.float32(np.inf)))
            picked = load(whole, PICKED + k)
            these = rounded & (picked >= OFF_GRID) if again == THOSE_OFF_GRID else rounded
            failed |= enter(room, whole, group, np.float32(1) / scale, scale, lane_bits(these), book)
            picked = where(these, load(whole, CHOSEN + k), picked)
            store(whole, PICKED + k, picked)
            store(whole, WORD + k, word_of(picked & (OFF_GRID - 1)))
        product, square = _sums(room, whole, groups, size)
        return where(rounded & (square > 0), product / square, scale), failed

    @counted_nowhere
    def search(room, whole, blocks, how, book, found):
        n, trials, least_value, even, again = how
        groups = n // size
        count = found[2].size
        for at in range(0, count, LANES):
            first = min(at, count - LANES)  # the last lanes search for some blocks once more
            largest = _take(room, whole, blocks, first, n, even)
            live = ~(largest < least_value)
            reach, scale = largest, largest / np.float32(2 * top + 1)
            if again == ALL:
                scale = positive_search(room[X:], room[W:], whole[LEVELS:], n, top + 2)
                reach = scale * np.float32(top + 1)
                live &= ~(reach <= 0)
            _energies(room, groups, size)
            for k in range(0, groups * LANES, LANES):
                store(room, SEEN + k, splat(-1))
                store(whole, WORD + k, splat_int(0x11111111))
                store(whole, CHOSEN + k, splat_int(0))
                store(whole, PICKED + k, splat_int(OFF_GRID if again == ALL_OR_NONE else 0))
            scale, failed = best_trial(room, whole, groups, trials, reach, scale, lane_bits(live), book)
            scale, later = once_more(room, whole, groups, scale, live, again, book)
            _put(room, whole, first, n, groups, live, scale, failed | later, even, book[2], found)

    return search


@counted_nowhere
def _put(room, whole, first, n, groups, live, scale, failed, even, entries, found):
    """Writes what was found for LANES blocks from `first` on; a negative scale turns all signs."""
    numbers, signs, scales = found
    turned = where(scale < 0, splat_int(127 if even else 255), 0)
    store(room, SCALE, where(live, where(scale < 0, -scale, scale), 0))
    for lane in range(LANES):
        scales[first + lane] = np.float32(np.inf) if failed >> np.uint64(lane) & np.uint64(1) else room[SCALE + lane]
    for group in range(groups):
        for k in range(PICKED + group * LANES, PICKED + group * LANES + LANES):
            whole[k] = entries[whole[k] & (OFF_GRID - 1)]
        number = where(live, load(whole, PICKED + group * LANES), 0)
        put_half(numbers, 2 * (first * groups + group), 2 * groups, number)
    for eight in range(n // 8):
        byte = where(live, load(whole, SIGNS + eight * LANES) ^ turned, 0)
        put_byte(signs, first * (n // 8) + eight, n // 8, byte)


_of_8 = _searching(nearest_of_8, word_of_8, 8, 2)
_of_4 = _searching(nearest_of_4, word_of_4, 4, 7)


@kernel
def search_2(blocks, how, book, found):
    """Entries, signs and scales of blocks, in groups of 8 values with three levels.

    `blocks` are at least LANES, as superblocks.py makes them. `how` they are searched: how many values a block
    has; the scales tried, as what the largest value is mapped to; below which largest value a block is zeros; whether
    signs are `even` (see `_take`); and which groups are rounded `again`. `book` are the arrays of a
    codebook. Filled are in `found` the numbers (uint16 of each group, as bytes), the signs (a byte of each 8 values)
    and the scales (of each block; infinite where ggml finds no entry).
    """
    room, whole = workspace(-(-FLOATS // LANES)), np.empty(INTEGERS, np.int32)
    _of_8(room, whole, blocks, how, book, found)


@kernel
def search_3(blocks, how, book, found):
    """The same for groups of 4 with eight levels."""
    room, whole = workspace(-(-FLOATS // LANES)), np.empty(INTEGERS, np.int32)
    _of_4(room, whole, blocks, how, book, found)
