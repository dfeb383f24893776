"""The nearest of the entries near a point, by weighted squared distance, for one group of values.

Entries are measured sixteen at a time. A coordinate has few levels, so what it adds to a distance is looked up among as
many numbers; all are added in ggml's order (ggml-quants.c, iq2_find_best_neighbour and its like).
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.codebooks import COUNT_SHIFT
from quantize.simd import LANES, counted_nowhere, gather, load, sqrt, store
from quantize.simd16 import LARGEST, WIDTH, first_lane, least, load16, lookup, numbered, sixteen, store16, where16

MOST = 304
"""More entries than any list has, in whole vectors."""

# Where things stand in the float32 room of a kernel, for LANES blocks of up to 32 values, a vector a value
SECTION = 32 * LANES
X, METRIC = 0, SECTION
"""The values, and the weights of the distances."""
DISTANCES, SQUARES = 2 * SECTION, 2 * SECTION + MOST
"""Squared distances of the entries of a list, and their A: the sums of weight * entry**2."""
REST = SQUARES + MOST
"""From here on the room is free."""

# The levels' numbers as a table of sixteen: of a coordinate of 8 levels, of the lower and of the higher of two of 3
_OF_EIGHT = np.array([2 * (k & 7) + 1 for k in range(WIDTH)], np.float32)
_LOWER = np.array([2 * (k & 3) + 1 for k in range(WIDTH)], np.float32)
_HIGHER = np.array([2 * (k >> 2) + 1 for k in range(WIDTH)], np.float32)

_ENDLESS = np.float32(1e38)
_ROUNDING = np.float32(2.0**-17)
_LOW, _HIGH = np.float32(1e-12), np.float32(1e12)


@counted_nowhere
def weigh(room, x, w, blocks, first, n, stride):
    """Fills the room at `w` with the weights of the values at `x`, n of each of LANES blocks from value `first` on.

    `stride` is how many values lie from one block to the next; `blocks` is made by superblocks.py.
    """
    _, columns, means, begin, plain = blocks
    mean = load(means, first // stride)
    if plain < 0:
        gather(columns, (begin + first) % (columns.size - 256 * LANES), stride, n, room[w:])
    for i in range(0, n * LANES, LANES):
        value = load(room, x + i)
        square = value * value
        weight = load(room, w + i) * sqrt(mean + square) if plain < 0 else mean * plain + square
        store(room, w + i, weight)


@counted_nowhere
def _term(table, room, at, scale):
    """What a coordinate adds to a squared distance, for the sixteen numbers of `table`."""
    difference = table * scale - room[X + at]
    return difference * room[METRIC + at] * difference


@counted_nowhere
def tables_of_8(room, at, scale, low, high):
    """Seven tables of what coordinates add to a squared distance, the first two together; then A of two at a time.

    `low` and `high` are the levels' numbers, of the lower and of the higher of two coordinates.
    """
    a, b, c, d = at, at + 2 * LANES, at + 4 * LANES, at + 6 * LANES
    return (
        _term(low, room, a, scale) + _term(high, room, a + LANES, scale),
        _term(low, room, b, scale),
        _term(high, room, b + LANES, scale),
        _term(low, room, c, scale),
        _term(high, room, c + LANES, scale),
        _term(low, room, d, scale),
        _term(high, room, d + LANES, scale),
        low * low * room[METRIC + a] + high * high * room[METRIC + a + LANES],
        low * low * room[METRIC + b] + high * high * room[METRIC + b + LANES],
        low * low * room[METRIC + c] + high * high * room[METRIC + c + LANES],
        low * low * room[METRIC + d] + high * high * room[METRIC + d + LANES],
    )


@counted_nowhere
def measured_of_8(tables, code):
    """Squared distance and A of sixteen entries."""
    b, c, d = code >> 4, code >> 8, code >> 12
    distance = lookup(tables[0], code) + lookup(tables[1], b) + lookup(tables[2], b)
    distance = distance + lookup(tables[3], c) + lookup(tables[4], c) + lookup(tables[5], d) + lookup(tables[6], d)
    return distance, lookup(tables[7], code) + lookup(tables[8], b) + lookup(tables[9], c) + lookup(tables[10], d)


@counted_nowhere
def _tables_of_4(room, at, scale):
    """Four tables of what coordinates add to a squared distance, and four of what they add to A."""
    table = load16(_OF_EIGHT, 0)
    a, b, c, d = at, at + LANES, at + 2 * LANES, at + 3 * LANES
    return (
        _term(table, room, a, scale),
        _term(table, room, b, scale),
        _term(table, room, c, scale),
        _term(table, room, d, scale),
        table * table * room[METRIC + a],
        table * table * room[METRIC + b],
        table * table * room[METRIC + c],
        table * table * room[METRIC + d],
    )


@counted_nowhere
def _measured_of_4(tables, code):
    """Squared distance and A of sixteen entries."""
    b, c, d = code >> 3, code >> 6, code >> 9
    distance = lookup(tables[0], code) + lookup(tables[1], b) + lookup(tables[2], c) + lookup(tables[3], d)
    return distance, lookup(tables[4], code) + lookup(tables[5], b) + lookup(tables[6], c) + lookup(tables[7], d)


@counted_nowhere
def _certain(scale, energy, distance, a, nearest, a_nearest):
    """How far the scale, times itself, may fall until an entry is nearer than the `nearest`; 0 where none is certain.

    What a computed distance is off by rounding is below 32 * 2**-24 of the energies scale**2 * A and C. It counts for
    two entries at two scales, and for what follows here.
    """
    error = ((a + a_nearest) * (scale * scale) + (energy + energy)) * _ROUNDING
    ahead, falling = distance - nearest - error, a - a_nearest
    crossing = where16(falling > 0, ahead / falling, _ENDLESS)
    return where16(ahead > 0, crossing, np.float32(0))


def _nearest(measured):
    """The functions that find the nearest entry, for groups of one size."""

    @counted_nowhere
    def among_few(tables, codes, first, count, scale, energy):
        """Of up to sixteen entries: the position of the nearest, its squared distance, and `_certain` of all others."""
        distance, a = measured(tables, load16(codes, first))
        distance = where16(numbered() < count, distance, np.float32(np.inf))
        nearest = least(distance)
        position = first_lane(distance == nearest)
        crossing = _certain(scale, energy, distance, a, nearest, lookup(a, sixteen(position)))
        return position, nearest, least(where16(numbered() == position, _ENDLESS, crossing))

    @counted_nowhere
    def among_many(room, tables, codes, first, count, scale, energy):
        """The same of any number."""
        best, position = sixteen(np.float32(LARGEST)), sixteen(np.int32(0))
        for start in range(0, count, WIDTH):
            distance, a = measured(tables, load16(codes, first + start))
            lane = numbered() + start
            distance = where16(lane < count, distance, np.float32(np.inf))
            store16(room, DISTANCES + start, distance)
            store16(room, SQUARES + start, a)
            nearer = distance < best
            best = where16(nearer, distance, best)
            position = where16(nearer, lane, position)
        nearest = least(best)
        found = min(least(where16(best == nearest, position, np.int32(MOST))), np.int32(MOST - 1))
        a_nearest, closest = sixteen(room[SQUARES + found]), sixteen(_ENDLESS)
        for start in range(0, count, WIDTH):
            distance, a = load16(room, DISTANCES + start), load16(room, SQUARES + start)
            crossing = _certain(scale, energy, distance, a, nearest, a_nearest)
            crossing = where16(numbered() + start == found, _ENDLESS, crossing)
            closest = where16(crossing < closest, crossing, closest)
        return found, nearest, least(closest)

    @counted_nowhere
    def nearest(room, tables, codes, first, count, scale, inverse, energy):
        """The position of the nearest of a list of entries, and down to which scale it is certain to be the nearest.

        The position is -1 where ggml finds none. `inverse` is about 1 / `scale`, `energy` the sum of weight * value**2.
        """
        if count <= WIDTH:
            position, distance, closest = among_few(tables, codes, first, count, scale, energy)
        else:
            position, distance, closest = among_many(room, tables, codes, first, count, scale, energy)
        # Products of numbers in these ranges are neither infinite nor denormal: rounding errors are relative ones.
        ordinary = (energy > _LOW) & (energy < _HIGH) & (scale > _LOW) & (scale < _HIGH)
        until = scale - closest * inverse if ordinary else np.float32(np.inf)
        return (position if distance < np.float32(LARGEST) else np.int32(-1)), until

    return nearest


_nearest_of_8, _nearest_of_4 = _nearest(measured_of_8), _nearest(_measured_of_4)


@counted_nowhere
def nearest_of_8(room, at, scale, inverse, energy, codes, first, count):
    """Of 8 values with levels 1, 3 and 5, which stand from X + `at` on, LANES apart; see `_nearest`."""
    tables = tables_of_8(room, at, scale, load16(_LOWER, 0), load16(_HIGHER, 0))
    return _nearest_of_8(room, tables, codes, first, count, scale, inverse, energy)


@counted_nowhere
def nearest_of_4(room, at, scale, inverse, energy, codes, first, count):
    """Of 4 values with levels 1, 3 ... 15."""
    return _nearest_of_4(room, _tables_of_4(room, at, scale), codes, first, count, scale, inverse, energy)


@counted_nowhere
def nearest_shifted(room, at, scale, shift, codes, first, count):
    """The position only, -1 for none, of 8 values with levels `shift` - 1, `shift` and `shift` + 1."""
    low, high = (load16(_LOWER, 0) - 3) * 0.5 + shift, (load16(_HIGHER, 0) - 3) * 0.5 + shift
    tables = tables_of_8(room, at, scale, low, high)
    best, position = sixteen(np.float32(LARGEST)), sixteen(np.int32(0))
    for start in range(0, count, WIDTH):
        distance, _ = measured_of_8(tables, load16(codes, first + start))
        nearer = (distance < best) & (numbered() < count - start)
        best = where16(nearer, distance, best)
        position = where16(nearer, numbered() + start, position)
    nearest = least(best)
    found = least(where16(best == nearest, position, np.int32(MOST)))
    return found if nearest < np.float32(LARGEST) else np.int32(-1)


@counted_nowhere
def word_of_8(code):
    """The odd numbers 2 * level + 1, four bits each, of a code's 8 levels of two bits."""
    spread = (code | code << 8) & 0x00FF00FF
    spread = (spread | spread << 4) & 0x0F0F0F0F
    spread = (spread | spread << 2) & 0x33333333
    return (spread << 1) + 0x11111111


@counted_nowhere
def word_of_4(code):
    """The same of 4 levels of three bits."""
    spread = code & 7 | (code & 0o70) << 1 | (code & 0o700) << 2 | (code & 0o7000) << 3
    return (spread << 1) + 0x1111


@counted_nowhere
def list_of(lists, point):
    """How many entries are near a point, 0 where it is one; and where their codes stand, or its own code."""
    entry = lists[point]
    return entry >> COUNT_SHIFT, entry & ((1 << COUNT_SHIFT) - 1)
