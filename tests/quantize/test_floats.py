"""float16 and bfloat16 to float32, and the largest absolute value: every number there is, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.floats import largest, to_float32

EVERY = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)


def test_float16_is_widened_exactly() -> None:
    with np.errstate(invalid="ignore"):
        expected = EVERY.view(np.float16).astype(np.float32)
    wide = to_float32(EVERY.view(np.float16))
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(wide.view(np.uint32)[numbers], expected.view(np.uint32)[numbers])
    assert np.isnan(wide[~numbers]).all()


def test_bfloat16_is_the_upper_half_of_float32() -> None:
    np.testing.assert_array_equal(to_float32(EVERY).view(np.uint32), EVERY.astype(np.uint32) << 16)


def test_float32_is_not_copied() -> None:
    values = np.ones((2, 3), np.float32)
    assert to_float32(values) is values


def test_room_is_used_and_may_be_larger() -> None:
    room = np.zeros(100, np.float32)
    wide = to_float32(np.full((3, 4), 1.5, np.float16), room)
    assert wide.shape == (3, 4)
    assert np.shares_memory(wide, room)
    np.testing.assert_array_equal(room, np.where(np.arange(100) < 12, 1.5, 0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("worst", [0.0, -2.0, 3.5, -3.5, np.inf, -np.inf, np.nan])
def test_largest(dtype: str, worst: float) -> None:
    values = np.linspace(-3, 3, 77, dtype=np.float32).astype(np.float16).astype(np.float32).reshape(7, 11)
    values[4, 5] = worst
    expected = np.nan if np.isnan(worst) else max(3.0, abs(worst))
    stored = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else values.astype(dtype)
    np.testing.assert_equal(largest(stored), expected)
    np.testing.assert_equal(largest(stored[::2]), expected)  # row 4 is among them; not contiguous


def test_the_largest_of_nothing() -> None:
    assert largest(np.empty((0, 4), np.float16)) == 0
