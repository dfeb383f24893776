"""The nearest of the entries near a point, by weighted squared distance, for one group of values.

Entries are measured sixteen at a time. A coordinate has few levels, so what it adds to a distance is looked up among as
many numbers; all are added in ggml's order (ggml-quants.c, iq2_find_best_neighbour and its like).
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.simd import LANES, counted_nowhere
from quantize.simd16 import LARGEST, WIDTH, least, load16, lookup, numbered, sixteen, store16, where16

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


def _nearest(measured):
    """The function that finds the nearest entry, for groups of one size."""

    @counted_nowhere
    def nearest(room, tables, codes, first, count):
        """The position of the nearest of a list of entries, -1 where ggml finds none; and its squared distance.

        All squared distances are left at DISTANCES, the A of all entries at SQUARES.
        """
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
        distance = least(best)
        position = least(where16(best == distance, position, np.int32(MOST)))
        return (position if distance < np.float32(LARGEST) else np.int32(-1)), distance

    return nearest


_nearest_of_8, _nearest_of_4 = _nearest(measured_of_8), _nearest(_measured_of_4)


@counted_nowhere
def nearest_of_8(room, at, scale, codes, first, count):
    """Of 8 values with levels 1, 3 and 5, which stand from X + `at` on, LANES apart; see `_nearest`."""
    tables = tables_of_8(room, at, scale, load16(_LOWER, 0), load16(_HIGHER, 0))
    return _nearest_of_8(room, tables, codes, first, count)


@counted_nowhere
def nearest_of_4(room, at, scale, codes, first, count):
    """Of 4 values with levels 1, 3 ... 15."""
    return _nearest_of_4(room, _tables_of_4(room, at, scale), codes, first, count)


@counted_nowhere
def nearest_shifted(room, at, scale, shift, codes, first, count):
    """The position, of 8 values with levels `shift` - 1, `shift` and `shift` + 1."""
    low, high = (load16(_LOWER, 0) - 3) * 0.5 + shift, (load16(_HIGHER, 0) - 3) * 0.5 + shift
    position, _ = _nearest_of_8(room, tables_of_8(room, at, scale, low, high), codes, first, count)
    return position


@counted_nowhere
def until(room, at, size, scale, position, distance, count):
    """Down to which scale the entry at `position` of a list is certain to stay the nearest, also after rounding."""
    energy = np.float32(0)
    for i in range(size):
        k = at + i * LANES
        energy += room[METRIC + k] * room[X + k] * room[X + k]
    a = room[SQUARES + position]
    square = scale * scale
    # Products of numbers in these ranges are neither infinite nor denormal, so rounding errors are relative ones.
    ordinary = 1e-24 < energy < 1e24 and 1e-24 < square * a < 1e24 and 1e-12 < scale < 1e12
    if not ordinary:
        return np.float32(np.inf)
    closest = sixteen(_ENDLESS)
    for start in range(0, count, WIDTH):
        other = load16(room, SQUARES + start)
        # what a rounded distance is off is below 32 * 2**-24 of these energies; two distances, twice, and some more
        error = ((other + a) * square + (energy + energy)) * _ROUNDING
        certain = load16(room, DISTANCES + start) - distance - error
        falling = other - a
        crossing = where16(falling > 0, certain / falling, _ENDLESS)
        crossing = where16(certain > 0, crossing, np.float32(0))
        crossing = where16(numbered() + start == position, _ENDLESS, crossing)
        closest = where16(crossing < closest, crossing, closest)
    return scale - least(closest) / scale
