"""IQ2 and IQ3 against ggml itself: the same bytes, with and without importance."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.blocks import TYPES
from quantize.encoders import ENCODERS, NEED_IMPORTANCE, overflowing
from tests.fixtures_blocks import CASES, CODEBOOKS, assert_bytes_are_ggmls, fitting, rows_of
from tests.fixtures_quantize import IMPORTANCE, importance

TYPES_OF_CODEBOOKS = sorted(CODEBOOKS)
# No row of these fits any of the types: ggml cannot be asked.
TOO_LARGE = {"huge", "any bits", "largest", "all magnitudes"}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_bytes_equal_ggmls(name: str, case: str) -> None:
    values = rows_of(case, 9, 512)
    compared = 0
    for of in (*IMPORTANCE, None):
        if of is None and name in NEED_IMPORTANCE:
            continue
        weights = None if of is None else importance(of, 512)
        some = fitting(name, values, weights)
        assert_bytes_are_ggmls(ENCODERS[name], name, some, weights)
        compared += len(some)
    assert compared or case in TOO_LARGE


@pytest.mark.parametrize("shape", [(1, 256), (0, 256), (5, 1280), (33, 4096)])
@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of("normal", *shape), importance("random", shape[1]))


@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_there_is_one_weight_a_column(name: str) -> None:
    with pytest.raises(ValueError, match="512 weights for rows of 256 values"):
        ENCODERS[name](np.zeros((2, 256), np.float32), np.ones(512, np.float32))


@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_rows_are_whole_super_blocks(name: str) -> None:
    with pytest.raises(ValueError, match=f"rows of 320 values, {name} needs a multiple of 256"):
        ENCODERS[name](np.zeros((2, 320), np.float32), np.ones(320, np.float32))


@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_where_ggml_would_stop_the_scale_is_infinite(name: str) -> None:
    values = np.full((2, 512), 1e20, np.float32)
    values[0, 256:] = values[1] = 0.5
    found = overflowing(name, ENCODERS[name](values, importance("random", 512)))
    np.testing.assert_array_equal(found, [[True, False], [False, False]])


@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_blocks_of_zeros_among_others(name: str) -> None:
    # IQ3_S puts what follows a block of zeros in its place; others leave the place empty
    values = rows_of("normal", 64, 256, 3).reshape(-1, 32)
    values[np.random.default_rng(4).random(len(values)) < 0.4] = 0
    assert_bytes_are_ggmls(ENCODERS[name], name, values.reshape(-1, 256), importance("random", 256))


@pytest.mark.parametrize("name", TYPES_OF_CODEBOOKS)
def test_what_is_written_reads_back_as_about_the_same(name: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = rows_of("normal", 16, 512)
    decoded = dequantize(ENCODERS[name](values, np.ones(512, np.float32)), GGMLQuantizationType[name])
    error = np.square(decoded - values).mean() / np.square(values).mean()
    assert error < 4 ** (1 - TYPES[name].bits_per_value) * 3  # a quarter with every bit
