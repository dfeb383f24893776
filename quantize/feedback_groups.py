"""The kernels of feedback_kernels.py for levels that come in groups: signs, and magnitudes that a codebook has.

book   float32 (entries, 8 or 4)   magnitudes
even   whether of eight levels an even number is negative, as of some types that keep seven signs of eight
"""

# ruff: noqa: PLR0912, PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.feedback_kernels import TINY, begin_tile, end_tile, over, refit_span, refit_sub, seen
from quantize.simd import LANES, fabs, inlined, kernel, load, splat, store, where, workspace

EIGHT = 8
"""Values that share a byte of signs, in one or two groups of a codebook."""


@inlined
def _even(signs, sizes, at):
    """Turns the sign of the least of `sizes` where the signs of eight have an odd number of negative ones."""
    product, least, place = splat(1), load(sizes, 0), splat(0)
    for j in range(EIGHT):
        product *= load(signs, (at + j) * LANES)
        size = load(sizes, j * LANES)
        smaller = size < least
        least, place = where(smaller, size, least), where(smaller, splat(j), place)
    for j in range(EIGHT):
        turn = (product < 0) & (place == np.float32(j))
        sign = load(signs, (at + j) * LANES)
        store(signs, (at + j) * LANES, where(turn, -sign, sign))


@inlined
def _signs(targets, weights, even, signs, sizes):
    """The signs of eight targets; an even number of them negative, where the block has no others."""
    for j in range(EIGHT):
        target = load(targets, j * LANES)
        store(signs, j * LANES, where(target < 0, splat(-1), splat(1)))
        store(sizes, j * LANES, fabs(target) * weights[j])
    if even:
        _even(signs, sizes, 0)


@kernel
def carry_groups(values, steps, upper, book, even, levels, errors, rows):
    """The same where levels come in groups: `book` (entries, size) has their magnitudes, `even` see `_signs`.

    Columns come by eight that are neighbours in their block; each eight are brought to signs and entries together, as
    the errors that they leave to the columns behind them cost.
    """
    columns, size = upper.shape[0], book.shape[1]
    found, targets, signs, sizes = workspace(columns), workspace(EIGHT), workspace(EIGHT), workspace(EIGHT)
    steep, base, left, best = workspace(EIGHT), workspace(EIGHT), workspace(EIGHT), workspace(EIGHT)
    weights, coupled = np.empty(EIGHT, np.float32), np.empty((EIGHT, EIGHT), np.float32)
    for lane in range(0, rows, LANES):
        for start in range(0, columns, EIGHT):
            step = load(steps, start * rows + lane)
            for j in range(EIGHT):
                value = load(values, (start + j) * rows + lane) - seen(upper, start + j, 0, start, found)
                weights[j] = np.float32(1) / (upper[start + j, start + j] * upper[start + j, start + j])
                store(base, j * LANES, value)
                store(targets, j * LANES, over(value, step))
                for k in range(j):
                    coupled[k, j] = upper[start + k, start + j] / upper[start + j, start + j]
            _signs(targets, weights, even, signs, sizes)
            for j in range(EIGHT):
                own = np.float32(1) / upper[start + j, start + j]
                store(base, j * LANES, load(base, j * LANES) * own)
                store(steep, j * LANES, load(signs, j * LANES) * step * own)
            for at in range(0, EIGHT, size):
                least = splat(np.inf)
                for entry in range(book.shape[0]):
                    cost = splat(0)
                    for j in range(at, at + size):
                        rest = load(base, j * LANES) - load(steep, j * LANES) * book[entry, j - at]
                        for k in range(j):
                            rest -= load(left, k * LANES) * coupled[k, j]
                        store(left, j * LANES, rest)
                        cost += rest * rest
                    better = cost < least
                    least = where(better, cost, least)
                    for j in range(at, at + size):
                        kept = splat(book[0, j - at]) if entry == 0 else load(best, j * LANES)
                        store(best, j * LANES, where(better, splat(book[entry, j - at]), kept))
                for j in range(at, at + size):
                    rest = load(base, j * LANES) - load(steep, j * LANES) * load(best, j * LANES)
                    for k in range(j):
                        rest -= load(left, k * LANES) * coupled[k, j]
                    store(left, j * LANES, rest)
                    store(found, (start + j) * LANES, rest)
                    store(errors, (start + j) * rows + lane, rest)
                    store(levels, (start + j) * rows + lane, load(best, j * LANES) * load(signs, j * LANES))


@kernel
def visit_groups(gradient, gram, sums, layout, book, even, levels, d, e, scales, minimums, moves, rows, turn_levels):
    """`visit` for such levels."""
    columns = gram.shape[0]
    width, span = int(layout[0]), int(layout[1])
    slopes, chosen, moved = workspace(columns), workspace(columns), workspace(columns)
    turned, within, room = workspace(columns), workspace(width), workspace(5 * EIGHT)
    for lane in range(0, rows, LANES):
        begin_tile(gradient, levels, d, e, scales, minimums, moves, width, span, rows, lane, slopes, chosen, moved)
        for start in range(0, columns, span):
            refit_span(gram, sums, layout, chosen, slopes, turned, d, e, scales, minimums, start, rows, lane)
            for at in range(start, start + span, width):
                step = refit_sub(
                    gram, sums, layout, chosen, slopes, turned, within, moved, d, e, scales, minimums, at, rows, lane
                )
                if turn_levels:
                    for first in range(at, at + width, EIGHT):
                        _turn_eight(gram, book, even, chosen, turned, within, moved, room, at, first, step)
        end_tile(levels, d, e, scales, minimums, moves, width, span, rows, lane, chosen)


@inlined
def _turn_eight(gram, book, even, chosen, turned, within, moved, room, at, start, step):
    """Signs and entries of eight neighbours, where that is better than those they have.

    With y what they are worth the error is, but for what stays, y H y + 2 y (slope - H old).
    """
    size = book.shape[1]
    slopes, signs, new = room[: EIGHT * LANES], room[EIGHT * LANES : 2 * EIGHT * LANES], room[2 * EIGHT * LANES :]
    targets, sizes = room[3 * EIGHT * LANES :], room[4 * EIGHT * LANES :]
    weights = np.empty(EIGHT, np.float32)
    before = splat(0)
    for j in range(EIGHT):
        c = start + j
        slope = load(within, (c - at) * LANES) + seen(gram, c, at, start, turned)
        old = load(chosen, c * LANES)
        store(targets, j * LANES, old - over(slope, step * gram[c, c]))
        weights[j] = gram[c, c]
        pull = splat(0)
        for k in range(EIGHT):
            pull += load(chosen, (start + k) * LANES) * gram[start + k, c]
        slope -= pull * step
        store(slopes, j * LANES, slope)
        before += old * step * (2 * slope + pull * step)
        store(new, j * LANES, old)
    _signs(targets, weights, even, signs, sizes)
    for j in range(EIGHT):
        store(signs, j * LANES, load(signs, j * LANES) * step)
    after = splat(0)
    for first in range(0, EIGHT, size):
        least = splat(np.inf)
        # what is worth of the groups before this one is known; of the one behind it, what it was
        for j in range(first, first + size):
            slope = load(slopes, j * LANES)
            for k in range(EIGHT):
                if k < first or k >= first + size:
                    worth = load(new, k * LANES) * step if k >= first else load(targets, k * LANES)
                    slope += worth * gram[start + k, start + j]
            store(sizes, j * LANES, slope)
        for entry in range(book.shape[0]):
            cost = splat(0)
            for j in range(first, first + size):
                worth = load(signs, j * LANES) * book[entry, j - first]
                store(targets, j * LANES, worth)
                pull = load(sizes, j * LANES) * 2 + worth * gram[start + j, start + j]
                for k in range(first, j):
                    pull += load(targets, k * LANES) * (2 * gram[start + k, start + j])
                cost += worth * pull
            better = cost < least
            least = where(better, cost, least)
            for j in range(first, first + size):
                kept = load(new, j * LANES)
                store(new, j * LANES, where(better, splat(book[entry, j - first]), kept))
        for j in range(first, first + size):
            store(targets, j * LANES, load(new, j * LANES) * load(signs, j * LANES))
    for j in range(EIGHT):
        pull = splat(0)
        for k in range(EIGHT):
            pull += load(targets, k * LANES) * gram[start + k, start + j]
        after += load(targets, j * LANES) * (2 * load(slopes, j * LANES) + pull)
    kept = (after >= before) | (fabs(step) < TINY)
    for j in range(EIGHT):
        c = start + j
        old = load(chosen, c * LANES)
        worth = load(targets, j * LANES)
        level = where(kept, old, load(new, j * LANES) * where(worth * step < 0, splat(-1), splat(1)))
        store(turned, c * LANES, (level - old) * step)
        store(moved, c * LANES, load(moved, c * LANES) + (level - old) * step)
        store(chosen, c * LANES, level)
