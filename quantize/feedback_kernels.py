"""Kernels that choose levels and scales of ggml's blocks by what the Gram matrix of the inputs says of their errors.

Everything stands columns first, flat float32 of (columns, rows), rows a multiple of LANES: lane k of a vector is a row,
and no row knows of another. A kernel looks back at the columns before one (what is left of them stays in registers and
in a workspace of a few KiB) instead of telling those behind it.

    levels    (columns, rows)      see coded.py; one of low..high, or of the table
    scales    (subs, rows)         whole numbers; subs of `width` columns
    minimums  (subs, rows)
    d, e      (supers, rows)       numbers that float16 has
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: arrays and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.simd import (
    LANES,
    fabs,
    from_float16,
    inlined,
    kernel,
    load,
    maximum,
    minimum,
    splat,
    store,
    to_float16,
    where,
    workspace,
)

_MAGIC = 12582912.0  # 1.5 * 2**23: added and taken away again, it leaves the nearest whole number, ties to even
_LARGEST = 65504.0  # of float16
TINY = 1e-30


@inlined
def _whole(value, low, high):
    """The nearest whole number of low..high; `low` for what is no number."""
    return (minimum(maximum(value, splat(low)), splat(high)) + _MAGIC) - _MAGIC


@inlined
def _nearest(value, low, high, table):
    """The level nearest to `value`; of two as near the upper one, in a table."""
    if table.shape[0] == 0:
        return _whole(value, low, high)
    level = splat(table[0])
    for k in range(1, table.shape[0]):
        level = where(value >= (table[k - 1] + table[k]) * np.float32(0.5), splat(table[k]), level)
    return level


@inlined
def _half(value):
    """The nearest float16, none of them infinite."""
    return from_float16(to_float16(minimum(maximum(value, splat(-_LARGEST)), splat(_LARGEST))))


@inlined
def over(value, divisor):
    """The quotient; 0 where there is none."""
    none = fabs(divisor) < TINY
    return where(none, splat(0), value / where(none, splat(1), divisor))


@inlined
def seen(factors, row, first, last, found):
    """The sum of factors[k, row] * found[k] for the columns k from `first` to `last`."""
    even, odd = splat(0), splat(0)
    k = first
    while k + 1 < last:
        even += load(found, k * LANES) * factors[k, row]
        odd += load(found, (k + 1) * LANES) * factors[k + 1, row]
        k += 2
    if k < last:
        even += load(found, k * LANES) * factors[k, row]
    return even + odd


# -- error feedback ----------------------------------------------------------------------------------------------------


@kernel
def carry(values, steps, offsets, upper, low, high, table, levels, errors, rows):
    """GPTQ within a part: each column to its nearest level, its error carried into those behind it.

    `values` are what the errors of the parts before have left; a level is worth offset + step * level; `upper` is the
    part's square of the upper Cholesky factor of the Gram matrix's inverse. Levels and errors (over the diagonal, for
    the parts behind) are written.
    """
    columns = upper.shape[0]
    found = workspace(columns)
    for lane in range(0, rows, LANES):
        for j in range(columns):
            at = j * rows + lane
            value = load(values, at) - seen(upper, j, 0, j, found)
            step, offset = load(steps, at), load(offsets, at)
            level = _nearest(over(value - offset, step), low, high, table)
            error = (value - (offset + step * level)) * (np.float32(1) / upper[j, j])
            store(found, j * LANES, error)
            store(levels, at, level)
            store(errors, at, error)


# -- descent -----------------------------------------------------------------------------------------------------------


@inlined
def _cost(a, b, slope_a, slope_b, aa, ab, bb):
    """By how much the error grows when a of one direction and b of another are added."""
    return a * (2 * slope_a + a * aa + 2 * b * ab) + b * (2 * slope_b + b * bb)


@inlined
def _best(slope_a, slope_b, aa, ab, bb):
    """Where that is least, both free; with directions that are as good as one, b stays."""
    det = aa * bb - ab * ab
    single = det < aa * bb * np.float32(1e-5)
    a = where(single, over(-slope_a, aa), over(ab * slope_b - bb * slope_a, where(single, splat(1), det)))
    b = where(single, splat(0), over(ab * slope_a - aa * slope_b, where(single, splat(1), det)))
    return a, b


@inlined
def _refit_halves(d, e, affine, slope_a, slope_b, aa, ab, bb):
    """d and e (in float16) after the best step, or as they were where rounding makes it none."""
    if not affine:
        a = _half(d + over(-slope_a, aa)) - d
        return where(a * (2 * slope_a + a * aa) < 0, a, splat(0)), splat(0)
    a, b = _best(slope_a, slope_b, aa, ab, bb)
    a = _half(d + a) - d
    b = _half(e + over(-(slope_b + a * ab), bb)) - e  # the best for what rounding left of a
    better = _cost(a, b, slope_a, slope_b, aa, ab, bb) < 0
    return where(better, a, splat(0)), where(better, b, splat(0))


@inlined
def _refit_whole(d, e, scale, least, scales, minimums, slope_a, slope_b, aa, ab, bb):
    """By how many whole numbers scale and minimum go up: of the scales next to the best, and of the one there is, the
    one that costs the least with the minimum that is best for it."""
    affine = minimums[1] != 0
    slope_a, aa = slope_a * d, aa * d * d
    slope_b, bb, ab = slope_b * e, bb * e * e, ab * d * e
    if affine:
        aim, _ = _best(slope_a, slope_b, aa, ab, bb)
    else:
        aim = over(-slope_a, aa)
    middle = scales[0] + scales[2] * _whole(
        (scale + aim - scales[0]) / scales[2], 0, (scales[1] - scales[0]) / scales[2]
    )
    best, best_a, best_b = splat(0), splat(0), splat(0)
    for trial in range(4 if affine else 1):
        tried = scale if trial == 3 else middle + np.float32(trial if trial < 2 else -1)
        a = minimum(maximum(tried, splat(scales[0])), splat(scales[1])) - scale
        b = splat(0)
        if affine:
            b = _whole(least + over(-(slope_b + a * ab), bb), minimums[0], minimums[1]) - least
        cost = _cost(a, b, slope_a, slope_b, aa, ab, bb)
        better = cost < best
        best, best_a, best_b = where(better, cost, best), where(better, a, best_a), where(better, b, best_b)
    return best_a, best_b


@kernel
def visit(gradient, gram, sums, layout, table, levels, d, e, scales, minimums, moves, rows, turn_levels):
    """A turn over a part of the columns, all others given: scales and levels go where the error is least.

    `gradient` (columns, rows) is gram @ (quantized - weight), of the whole matrix, for this part; `gram` the part's
    square of it; `sums` (subs, columns) sums of its rows over the columns of a sub. `layout`: width, span, low, high,
    lowest and highest scale, lowest and highest minimum, how far scales are apart, all float32. Levels and
    scales are changed; `moves` gets by how much each value did. Without `turn_levels` the scales alone go.
    """
    columns = gram.shape[0]
    width, span = int(layout[0]), int(layout[1])
    nested = layout[5] > layout[4]
    slopes, chosen, moved = workspace(columns), workspace(columns), workspace(columns)
    turned, within = workspace(columns), workspace(width)
    for lane in range(0, rows, LANES):
        begin_tile(gradient, levels, d, e, scales, minimums, moves, width, span, rows, lane, slopes, chosen, moved)
        for start in range(0, columns, span):
            if nested:
                refit_span(gram, sums, layout, chosen, slopes, turned, d, e, scales, minimums, start, rows, lane)
            for at in range(start, start + span, width):
                step = refit_sub(
                    gram, sums, layout, chosen, slopes, turned, within, moved, d, e, scales, minimums, at, rows, lane
                )
                if turn_levels:
                    _turn_levels(gram, layout, table, chosen, turned, within, moved, at, step)
        end_tile(levels, d, e, scales, minimums, moves, width, span, rows, lane, chosen)


@inlined
def begin_tile(gradient, levels, d, e, scales, minimums, moves, width, span, rows, lane, slopes, chosen, moved):
    """Brings the columns of LANES rows into workspaces; `moves` gets what they are worth."""
    for c in range(slopes.shape[0] // LANES):
        store(slopes, c * LANES, load(gradient, c * rows + lane))
        store(chosen, c * LANES, load(levels, c * rows + lane))
        store(moved, c * LANES, splat(0))
        store(moves, c * rows + lane, _value(c, lane, rows, width, span, chosen, d, e, scales, minimums))


@inlined
def end_tile(levels, d, e, scales, minimums, moves, width, span, rows, lane, chosen):
    """Writes the levels back, and by how much each value has changed."""
    for c in range(chosen.shape[0] // LANES):
        before = load(moves, c * rows + lane)
        after = _value(c, lane, rows, width, span, chosen, d, e, scales, minimums)
        store(moves, c * rows + lane, after - before)
        store(levels, c * rows + lane, load(chosen, c * LANES))


@inlined
def _value(c, lane, rows, width, span, chosen, d, e, scales, minimums):
    sub, whole = c // width * rows + lane, c // span * rows + lane
    step, offset = load(d, whole) * load(scales, sub), load(e, whole) * load(minimums, sub)
    return load(chosen, c * LANES) * step + offset


@inlined
def refit_span(gram, sums, layout, chosen, slopes, turned, d, e, scales, minimums, start, rows, lane):
    """d and e of a block whose scales are whole numbers; the slopes of its columns follow.

    It is the first of the part: no column before it has moved.
    """
    width, span, affine = int(layout[0]), int(layout[1]), layout[7] != 0
    whole = start // span * rows + lane
    slope_a, slope_b, aa, ab, bb = splat(0), splat(0), splat(0), splat(0), splat(0)
    for c in range(start, start + span):
        total = splat(0)
        for at in range(start, start + span, width):
            part = splat(0)
            for k in range(at, at + width):
                part += load(chosen, k * LANES) * gram[k, c]
            total += part * load(scales, at // width * rows + lane)
        store(turned, c * LANES, total)
        value = load(chosen, c * LANES) * load(scales, c // width * rows + lane)
        slope_a += value * load(slopes, c * LANES)
        aa += value * total
        if affine:
            least = load(minimums, c // width * rows + lane)
            slope_b += least * load(slopes, c * LANES)
            ab += least * total
    if affine:
        for i in range(start // width, (start + span) // width):
            for j in range(start // width, (start + span) // width):
                shared = np.float32(0)
                for c in range(j * width, (j + 1) * width):
                    shared += sums[i, c]
                bb += load(minimums, i * rows + lane) * load(minimums, j * rows + lane) * shared
    a, b = _refit_halves(load(d, whole), load(e, whole), affine, slope_a, slope_b, aa, ab, bb)
    store(d, whole, load(d, whole) + a)
    store(e, whole, load(e, whole) + b)
    for c in range(start, start + span):
        slope = load(slopes, c * LANES) + a * load(turned, c * LANES)
        if affine:
            for i in range(start // width, (start + span) // width):
                slope += b * load(minimums, i * rows + lane) * sums[i, c]
        store(slopes, c * LANES, slope)


@inlined
def refit_sub(gram, sums, layout, chosen, slopes, turned, within, moved, d, e, scales, minimums, at, rows, lane):
    """Scale and minimum of neighbours that share them; returns what a level is worth then.

    `within` gets the slopes of their columns after it, `moved` by how much these have changed.
    """
    width, span, affine = int(layout[0]), int(layout[1]), layout[7] != 0
    own, whole, sub = at // width * rows + lane, at // span * rows + lane, at // width
    slope_a, slope_b, aa, ab, bb = splat(0), splat(0), splat(0), splat(0), np.float32(0)
    for c in range(at, at + width):
        slope = load(slopes, c * LANES) + seen(gram, c, 0, at, moved)
        store(slopes, c * LANES, slope)
        total = seen(gram, c, at, at + width, chosen)
        store(turned, c * LANES, total)
        level = load(chosen, c * LANES)
        slope_a += level * slope
        aa += level * total
        slope_b += slope
        ab += total
        bb += sums[sub, c]
    scale, least = load(scales, own), load(minimums, own)
    if layout[5] > layout[4]:
        limits, lower = (layout[4], layout[5], layout[8]), (layout[6], layout[7])
        a, b = _refit_whole(
            load(d, whole), load(e, whole), scale, least, limits, lower, slope_a, slope_b, aa, ab, splat(bb)
        )
        store(scales, own, scale + a)
        store(minimums, own, least + b)
        a, b = a * load(d, whole), b * load(e, whole)
    else:
        a, b = _refit_halves(load(d, whole), load(e, whole), affine, slope_a, slope_b, aa, ab, splat(bb))
        store(d, whole, load(d, whole) + a)
        store(e, whole, load(e, whole) + b)
    step = load(d, whole) * load(scales, own)
    for c in range(at, at + width):
        level = load(chosen, c * LANES)
        slope = load(slopes, c * LANES) + a * load(turned, c * LANES) + b * sums[sub, c]
        store(moved, c * LANES, a * level + b)
        store(within, (c - at) * LANES, slope)
    return step


@inlined
def _turn_levels(gram, layout, table, chosen, turned, within, moved, at, step):
    """Each level of neighbours that share a scale; `turned` gets by how much they have changed with it."""
    for c in range(at, at + int(layout[0])):
        level = load(chosen, c * LANES)
        slope = load(within, (c - at) * LANES) + seen(gram, c, at, c, turned)
        new = _nearest(level - over(slope, step * gram[c, c]), layout[2], layout[3], table)
        new = where(fabs(step) < TINY, level, new)
        store(turned, c * LANES, (new - level) * step)
        store(moved, c * LANES, load(moved, c * LANES) + (new - level) * step)
        store(chosen, c * LANES, new)
