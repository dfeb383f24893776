"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 against ggml itself: the same bytes, with and without importance weights."""

from __future__ import annotations

import numpy as np
import pytest

from quantize import legacy
from tests.fixtures_blocks import CASES, IMPORTANCE, assert_bytes_are_ggmls, importance_of, rows_of

ENCODERS = {"Q4_0": legacy.q4_0, "Q4_1": legacy.q4_1, "Q5_0": legacy.q5_0, "Q5_1": legacy.q5_1, "Q8_0": legacy.q8_0}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_plain(name: str, case: str) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of(case, 512, 96))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_with_importance(name: str, case: str) -> None:
    values = rows_of(case, 35, 96)  # blocks and rows are no multiples of the lanes
    for kind in IMPORTANCE:
        assert_bytes_are_ggmls(ENCODERS[name], name, values, importance_of(kind, 96))


@pytest.mark.parametrize("shape", [(1, 32), (3, 32), (1, 64), (2, 4064), (33, 1056), (70, 32)])
@pytest.mark.parametrize("name", ENCODERS)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    values = rows_of("normal", *shape)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance_of("random", shape[1]))


@pytest.mark.parametrize("name", ENCODERS)
def test_no_rows(name: str) -> None:
    values = np.empty((0, 64), np.float32)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values, importance_of("random", 64))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_array_may_be_read_only_or_strided(name: str) -> None:
    values = rows_of("normal", 8, 256)
    want = ENCODERS[name](np.ascontiguousarray(values[::2, ::2]))
    np.testing.assert_array_equal(ENCODERS[name](values[::2, ::2]), want)
    values.flags.writeable = False
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
