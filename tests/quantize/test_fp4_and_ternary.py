"""MXFP4, NVFP4, TQ1_0 and TQ2_0 against ggml itself: the same bytes, whatever the importance."""

from __future__ import annotations

import numpy as np
import pytest

from quantize.encoders import ENCODERS, overflowing
from tests.fixtures_blocks import CASES, assert_bytes_are_ggmls, rows_of
from tests.fixtures_quantize import IMPORTANCE, importance, oracle

TYPES = ("MXFP4", "NVFP4", "TQ1_0", "TQ2_0")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", TYPES)
def test_bytes(name: str, case: str) -> None:
    values = rows_of(case, 65, 768)
    assert_bytes_are_ggmls(ENCODERS[name], name, values)
    assert_bytes_are_ggmls(ENCODERS[name], name, values[:5], importance(IMPORTANCE[CASES.index(case) % 8], 768))


@pytest.mark.parametrize("shape", [(0, 256), (1, 256), (3, 256), (1, 8192), (33, 1280)])
@pytest.mark.parametrize("name", TYPES)
def test_shapes(name: str, shape: tuple[int, int]) -> None:
    assert_bytes_are_ggmls(ENCODERS[name], name, rows_of("normal", *shape))


@pytest.mark.parametrize(("name", "block"), [("MXFP4", 32), ("NVFP4", 64)])
def test_rows_of_few_blocks(name: str, block: int) -> None:
    for blocks in (1, 2, 63, 65):
        assert_bytes_are_ggmls(ENCODERS[name], name, rows_of("outliers", 3, block * blocks))


def test_exponents_at_every_power_of_two() -> None:
    """The logarithm of a number just below one rounds to a whole number, which ggml's exponent follows."""
    powers = np.concatenate([1 << np.arange(23), np.arange(1, 256) << 23])
    below = powers[:, None] - np.concatenate([np.arange(-4, 120), [500, 5000]])
    bits = np.clip(below, 1, 0x7F7FFFFF).astype(np.uint32).reshape(-1)
    values = np.zeros((bits.size, 32), np.float32)
    values[:, 7] = bits.view(np.float32)
    values[:, 20] = -values[:, 7] / 3
    assert_bytes_are_ggmls(ENCODERS["MXFP4"], "MXFP4", values)


def test_every_scale_and_every_middle() -> None:
    """Values on the middles between two levels, and next to them, under scales that can be had."""
    middles = np.float32([0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 6.4, 6.75])
    around = np.concatenate([middles, np.nextafter(middles, np.float32(9)), np.nextafter(middles, np.float32(-9))])
    scales = np.geomspace(2.0**-14, 2.0**13, 4001, dtype=np.float32)
    values = np.zeros((scales.size, 64), np.float32)
    values[:, : around.size] = around * scales[:, None]
    values[:, around.size : 63] = -values[:, : 63 - around.size]
    assert_bytes_are_ggmls(ENCODERS["NVFP4"], "NVFP4", values)
    assert_bytes_are_ggmls(ENCODERS["MXFP4"], "MXFP4", values)
    powers = np.exp2(np.arange(-126, 124)).astype(np.float32)
    exact = (np.float32(powers)[:, None] * np.resize(values[2000] / scales[2000], 64)).astype(np.float32)
    assert_bytes_are_ggmls(ENCODERS["MXFP4"], "MXFP4", exact)


def test_an_exponent_that_readers_refuse_is_found() -> None:
    """Of blocks between 2**-126 and 2**-125 ggml's exponent is 255, no number: llama-quantize gives up on them."""
    values = np.zeros((4, 64), np.float32)
    values[1, 40], values[2, 3], values[3, 0] = 2.0**-126, -(2.0**-127), 1.0
    encoded = ENCODERS["MXFP4"](values)
    np.testing.assert_array_equal(encoded, oracle(values, "MXFP4"))
    assert np.argwhere(overflowing("MXFP4", encoded)).tolist() == [[1, 1]]
