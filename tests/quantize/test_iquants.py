"""IQ4_NL and IQ4_XS against ggml itself: the same bytes, with and without importance weights."""

from __future__ import annotations

import numpy as np
import pytest

from quantize import iquants
from tests.fixtures_blocks import CASES, IMPORTANCE, assert_bytes_are_ggmls, importance_of, rows_of

ENCODERS = {"IQ4_NL": iquants.iq4_nl, "IQ4_XS": iquants.iq4_xs}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_plain(name: str, case: str) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of(case, 32, 512))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_with_importance(name: str, case: str) -> None:
    values = rows_of(case, 7, 256)
    for kind in IMPORTANCE:
        assert_bytes_are_ggmls(ENCODERS[name], name, values, importance_of(kind, 256))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("IQ4_NL", (1, 32)), ("IQ4_NL", (37, 96)), ("IQ4_XS", (1, 256)), ("IQ4_XS", (0, 256)), ("IQ4_XS", (5, 1280))],
)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    values = rows_of("normal", *shape)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance_of("random", shape[1]))


def test_the_nearest_level_is_told_by_the_middles() -> None:
    # ggml compares the distances to both neighbours, rounded to float32
    levels = np.array(iquants.LEVELS, np.float32)
    near = [(np.float32(m).view(np.int32) + np.arange(-5000, 5001, dtype=np.int32)) for m in iquants.MIDDLES]
    x = np.concatenate([np.concatenate(near).view(np.float32), np.linspace(-130, 120, 100001, dtype=np.float32)])
    upper = np.searchsorted(levels, x, side="right").clip(1, 15)
    nearest = np.where(x - levels[upper - 1] < levels[upper] - x, upper - 1, upper)
    np.testing.assert_array_equal(np.searchsorted(np.float32(iquants.MIDDLES), x, side="right"), nearest)


def test_a_value_passes_one_middle_at_most_in_all_trials() -> None:
    middles = np.array(iquants.MIDDLES)
    longest, shortest = -iquants.LEVELS[0] + iquants._REACH, -iquants.LEVELS[0] - iquants._REACH
    negative, positive = -middles[middles < 0][::-1], middles[middles > 0]
    for side in (negative, positive):
        assert (side[1:] / side[:-1] > longest / shortest).all()
