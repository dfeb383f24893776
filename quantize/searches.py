"""ggml's searches for the scale of a group of values, LANES groups at a time.

A group is n vectors in a workspace, from vector `at` on: lane k of vector i is value i of group k. Every sum is in
ggml's order; products are left to right as in C (w * x * l is (w * x) * l). What ggml does only under a condition is
done in all lanes and kept where the condition holds.
"""

# ruff: noqa: PLR0913, PLR0917 - a kernel has no objects: workspaces and constants are passed one by one
# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="import-untyped,misc"

from __future__ import annotations

import numpy as np

from quantize.simd import (
    LANES,
    any_lane,
    fabs,
    inlined,
    limited_level,
    load,
    maximum,
    minimum,
    nearest_int,
    nearest_level,
    no_lane,
    splat,
    splat_int,
    store,
    to_float,
    where,
)

EPSILON = 1e-15
"""A group whose largest absolute value is below this is all zeros to ggml (GROUP_MAX_EPS)."""

_LARGEST = float.fromhex("0x1.fffffep127")


@inlined
def affine_level(value, top, limit_first):
    """A level in 0..top of the scaled `value`.

    ggml's searches differ where a fit has moved the range so far from the values that `value` is beyond 2**22: with
    importance they limit it before they round, without they limit what their rounding has made of it.
    """
    return limited_level(value, top) if limit_first else nearest_level(value, 0, top)


@inlined
def affine_search(x, at, w, levels, n, top, start, step, steps, absolute, limit_first=True):
    """Scale, minimum, and the (inverse, low) of the levels: x is about scale * level - minimum, level in 0..top.

    make_qkx2_quants and make_qkx3_quants of ggml-quants.c: from the inverse (start + step * k + top) / range,
    k = 0..steps, levels are drawn and fitted by weighted least squares; the smallest sum of w * error**2 (w * |error|
    when `absolute`) wins. `w` holds n vectors of weights, `levels` is room for n more.
    level i is `affine_level(inverse * (x[i] - low), top, limit_first)`: ggml keeps it where a stored scale turns out
    zero. `limit_first` tells make_qkx3_quants from make_qkx2_quants.
    """
    v = load(x, at * LANES)
    weight = load(w, 0)
    low, high = v, v
    sum_w, sum_x = weight, weight * v
    for i in range(1, n):
        v = load(x, (at + i) * LANES)
        weight = load(w, i * LANES)
        low = minimum(v, low)
        high = maximum(v, high)
        sum_w += weight
        sum_x += weight * v
    low = where(low > 0, 0, low)
    # Where all values are equal the inverse is infinite, the scale 0 and all levels 0: what ggml returns at once.
    inverse = np.float32(top) / (high - low)
    scale = np.float32(1) / inverse
    # The first levels are limited after rounding, which makes 0 of infinity in both searches.
    level_inverse, level_low = where(inverse > _LARGEST, 0, inverse), low
    best = splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        error = scale * nearest_level(inverse * (v - low), 0, top) + low - v
        best += load(w, i * LANES) * (fabs(error) if absolute else error * error)
    for k in range(steps + 1):
        inverse = splat(np.float32(start) + np.float32(step) * np.float32(k) + np.float32(top)) / (high - low)
        sum_l, sum_l2, sum_xl = splat(0), splat(0), splat(0)
        for i in range(n):
            v = load(x, (at + i) * LANES)
            level = affine_level(inverse * (v - low), top, limit_first)
            store(levels, i * LANES, level)
            wl = load(w, i * LANES) * level
            sum_l += wl
            sum_l2 += wl * level
            sum_xl += wl * v
        determinant = sum_w * sum_l2 - sum_l * sum_l
        this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        this_low = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        this_scale = where(this_low > 0, sum_xl / sum_l2, this_scale)
        this_low = where(this_low > 0, 0, this_low)
        errors = splat(0)
        for i in range(n):
            error = this_scale * load(levels, i * LANES) + this_low - load(x, (at + i) * LANES)
            errors += load(w, i * LANES) * (fabs(error) if absolute else error * error)
        better = (determinant > 0) & (errors < best)
        level_inverse = where(better, inverse, level_inverse)
        level_low = where(better, low, level_low)
        best = where(better, errors, best)
        scale = where(better, this_scale, scale)
        low = where(better, this_low, low)
    return scale, -low, level_inverse, level_low


@inlined
def symmetric_search(x, at, w, wx, n, top):
    """Scale and inverse of the levels: x is about scale * level, level in -top..top-1; both 0 for a group of zeros.

    make_qx_quants of ggml-quants.c (rmse_type 1): around the inverse that maps the value of largest size to -top,
    19 are tried; the largest (sum w x l)**2 / sum w l**2 wins. `w` holds n vectors of weights, `wx` is room for n more.
    level i is `nearest_level(inverse * x[i], -top, top - 1)`; ggml's unsigned level 0 for a group of zeros is not.
    """
    largest, extreme = splat(0), splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        store(wx, i * LANES, load(w, i * LANES) * v)
        size = fabs(v)
        extreme = where(size > largest, v, extreme)
        largest = maximum(size, largest)
    inverse = np.float32(-top) / extreme
    sum_xl, sum_l2 = _symmetric_sums(x, at, w, wx, n, top, inverse)
    scale = where(sum_l2 != 0, sum_xl / sum_l2, 0)
    best = scale * sum_xl
    for k in range(-9, 10):
        if k != 0:
            this_inverse = splat(-(np.float32(top) + np.float32(0.1) * np.float32(k))) / extreme
            sum_xl, sum_l2 = _symmetric_sums(x, at, w, wx, n, top, this_inverse)
            better = (sum_l2 > 0) & (sum_xl * sum_xl > best * sum_l2)
            inverse = where(better, this_inverse, inverse)
            scale = where(better, sum_xl / sum_l2, scale)
            best = where(better, scale * sum_xl, best)
    zeros = largest < EPSILON
    return where(zeros, 0, scale), where(zeros, 0, inverse), zeros


@inlined
def _symmetric_sums(x, at, w, wx, n, top, inverse):
    sum_xl, sum_l2 = splat(0), splat(0)
    for i in range(n):
        level = nearest_level(inverse * load(x, (at + i) * LANES), -top, top - 1)
        sum_xl += load(wx, i * LANES) * level
        sum_l2 += load(w, i * LANES) * level * level
    return sum_xl, sum_l2


@inlined
def refined_search(x, at, levels, n, top):
    """Scale, and which groups are all zeros: x is about scale * level, the levels in -top..top-1, left in `levels`.

    make_q3_quants of ggml-quants.c: weights x**2; in up to 5 rounds levels change one at a time where that fits better.
    A lane in which a round changed nothing is at rest: ggml stops there, here further rounds change nothing either.
    """
    largest, extreme = splat(0), splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        size = fabs(v)
        extreme = where(size > largest, v, extreme)
        largest = maximum(size, largest)
    inverse = np.float32(-top) / extreme
    sum_xl, sum_l2 = splat(0), splat(0)
    for i in range(n):
        v = load(x, (at + i) * LANES)
        level = nearest_level(inverse * v, -top, top - 1)
        store(levels, (at + i) * LANES, level)
        weight = v * v
        sum_xl += weight * v * level
        sum_l2 += weight * level * level
    for _ in range(5):
        changed = no_lane()
        for i in range(n):
            v = load(x, (at + i) * LANES)
            level = load(levels, (at + i) * LANES)
            weight = v * v
            xl = sum_xl - weight * v * level
            l2 = sum_l2 - weight * level * level
            other = nearest_level(v * l2 / xl, -top, top - 1)
            better = (xl > 0) & (other != level)
            xl += weight * v * other
            l2 += weight * other * other
            better &= (l2 > 0) & (xl * xl * sum_l2 > sum_xl * sum_xl * l2)
            store(levels, (at + i) * LANES, where(better, other, level))
            sum_xl = where(better, xl, sum_xl)
            sum_l2 = where(better, l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    zeros = largest < EPSILON
    return where(zeros, 0, where(sum_l2 > 0, sum_xl / sum_l2, 0)), zeros


@inlined
def positive_search(x, w, levels, n, top):
    """Scale of the values x >= 0 (n vectors): x is about scale * level; the levels, int32 in 0..top, into `levels`.

    make_qp_quants of ggml-quants.c: nine inverses are tried, then levels change one at a time as in `refined_search`.
    ggml keeps a level in a byte but adds it up as it was before: a negative one differs, hence the `& 0xff` here.
    """
    largest = splat(0)
    for i in range(n):
        largest = maximum(largest, load(x, i * LANES))
    inverse = np.float32(top) / largest
    best = _positive_error(x, w, n, inverse, 0xFF)
    for k in range(-4, 5):
        if k != 0:
            this_inverse = splat(np.float32(0.1) * np.float32(k) + np.float32(top)) / largest
            error = _positive_error(x, w, n, this_inverse, top)
            inverse = where(error < best, this_inverse, inverse)
            best = where(error < best, error, best)
    sum_xl, sum_l2 = splat(0), splat(0)
    for i in range(n):
        v, weight = load(x, i * LANES), load(w, i * LANES)
        whole = minimum(nearest_int(inverse * v), splat_int(top))
        store(levels, i * LANES, whole & 0xFF)
        level = to_float(whole)
        sum_xl += weight * v * level
        sum_l2 += weight * level * level
    for _ in range(5):
        changed = no_lane()
        for i in range(n):
            v, weight, whole = load(x, i * LANES), load(w, i * LANES), load(levels, i * LANES)
            level = to_float(whole)
            xl = sum_xl - weight * v * level
            l2 = sum_l2 - weight * level * level
            other = minimum(nearest_int(v * l2 / xl), splat_int(top))
            better = (xl > 0) & (l2 > 0) & (other != whole)
            level = to_float(other)
            xl += weight * v * level
            l2 += weight * level * level
            better &= xl * xl * sum_l2 > sum_xl * sum_xl * l2
            store(levels, i * LANES, where(better, other & 0xFF, whole))
            sum_xl = where(better, xl, sum_xl)
            sum_l2 = where(better, l2, sum_l2)
            changed |= better
        if not any_lane(changed):
            break
    zeros = largest < EPSILON
    for i in range(n):
        store(levels, i * LANES, where(zeros, 0, load(levels, i * LANES)))
    return where(zeros, 0, where(sum_l2 > 0, sum_xl / sum_l2, 0))


@inlined
def _positive_error(x, w, n, inverse, top):
    scale = np.float32(1) / inverse
    errors = splat(0)
    for i in range(n):
        v = load(x, i * LANES)
        whole = nearest_int(inverse * v)
        # the first try is not limited, but cut to a byte
        whole = whole & 0xFF if top == 0xFF else minimum(whole, splat_int(top))
        error = v - scale * to_float(whole)
        errors += load(w, i * LANES) * error * error
    return errors
