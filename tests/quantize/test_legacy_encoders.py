"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 against ggml itself: the same bytes, with and without importance weights."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.legacy import q4_0, q4_1, q5_0, q5_1, q8_0
from tests.fixtures_blocks import CASES, assert_bytes_are_ggmls, rows_of
from tests.fixtures_quantize import IMPORTANCE, importance

ENCODERS = {"Q4_0": q4_0, "Q4_1": q4_1, "Q5_0": q5_0, "Q5_1": q5_1, "Q8_0": q8_0}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_plain(name: str, case: str) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of(case, 512, 96))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_with_importance(name: str, case: str) -> None:
    values = rows_of(case, 35, 96)  # neither blocks nor rows are a multiple of the lanes
    for of in IMPORTANCE:
        assert_bytes_are_ggmls(ENCODERS[name], name, values, importance(of, 96))


@pytest.mark.parametrize("shape", [(0, 64), (1, 32), (3, 32), (1, 64), (2, 4064), (33, 1056), (70, 32)])
@pytest.mark.parametrize("name", ENCODERS)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    values = rows_of("normal", *shape)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance("random", shape[1]))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_array_may_be_read_only_or_strided(name: str) -> None:
    values = rows_of("normal", 8, 256)
    want = ENCODERS[name](np.ascontiguousarray(values[::2, ::2]))
    np.testing.assert_array_equal(ENCODERS[name](values[::2, ::2]), want)
    values.flags.writeable = False
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance("random", 256))


def test_rows_that_are_no_whole_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        q4_0(np.zeros((2, 48), np.float32))


def test_there_is_one_weight_a_column() -> None:
    with pytest.raises(ValueError, match="64 weights for rows of 32 values"):
        q4_1(np.zeros((2, 32), np.float32), np.ones(64, np.float32))
