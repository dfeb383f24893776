"""IQ4_NL and IQ4_XS against ggml itself: the same bytes, with and without importance weights."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.iquants import LEVELS, MIDDLES, TRIALS, iq4_nl, iq4_xs
from tests.fixtures_blocks import CASES, assert_bytes_are_ggmls, rows_of
from tests.fixtures_quantize import IMPORTANCE, importance

ENCODERS = {"IQ4_NL": iq4_nl, "IQ4_XS": iq4_xs}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_plain(name: str, case: str) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of(case, 32, 512))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_with_importance(name: str, case: str) -> None:
    values = rows_of(case, 7, 256)
    for of in IMPORTANCE:
        assert_bytes_are_ggmls(ENCODERS[name], name, values, importance(of, 256))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("IQ4_NL", (1, 32)), ("IQ4_NL", (37, 96)), ("IQ4_XS", (1, 256)), ("IQ4_XS", (0, 256)), ("IQ4_XS", (5, 1280))],
)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    values = rows_of("normal", *shape)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance("random", shape[1]))


def test_there_is_one_weight_a_column() -> None:
    with pytest.raises(ValueError, match="512 weights for rows of 256 values"):
        iq4_xs(np.zeros((2, 256), np.float32), np.ones(512, np.float32))


def test_the_nearest_level_is_told_by_the_middles() -> None:
    # ggml compares the distances to both neighbours, rounded to float32
    levels, middles = np.array(LEVELS, np.float32), np.array(MIDDLES, np.float32)
    near = (middles[:, None].view(np.int32) + np.arange(-5000, 5001, dtype=np.int32)).view(np.float32).reshape(-1)
    x = np.concatenate([near, np.linspace(-130, 120, 100001, dtype=np.float32)])
    upper = np.searchsorted(levels, x, side="right").clip(1, 15)
    nearest = np.where(x - levels[upper - 1] < levels[upper] - x, upper - 1, upper)
    np.testing.assert_array_equal(np.searchsorted(middles, x, side="right"), nearest)


def test_a_value_passes_one_middle_at_most_in_all_trials() -> None:
    middles = np.array(MIDDLES)
    for side in (middles[middles > 0], -middles[middles < 0][::-1]):
        assert (side[1:] / side[:-1]).min() > TRIALS[0] / TRIALS[-1]
