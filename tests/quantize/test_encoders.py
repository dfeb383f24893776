"""Every encoder against ggml itself: the same bytes, on ordinary and on extreme rows."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from quantize.blocks import TYPES
from quantize.encoders import ALWAYS_FITS, ENCODERS, NEED_IMPORTANCE, OVERFLOW, overflowing
from tests import processes
from tests.fixtures_blocks import CODEBOOKS, fitting
from tests.fixtures_quantize import importance, oracle

COLUMNS = 256  # a row of every block type
BLOCKS = [name for name in ENCODERS if TYPES[name].values > 1]
ANY_SIZE = ("MXFP4", "NVFP4")  # whose scales are no float16: nothing becomes infinite in them


def _rows(name: str) -> np.ndarray:
    draw = np.random.default_rng(1)
    normal = draw.normal(size=(64, COLUMNS))
    halves = draw.integers(-254, 255, size=(64, COLUMNS)) / 2  # exact ties once the scale is 1
    halves[:, ::32] = 127
    bits = draw.integers(0, 2**32, size=(512, COLUMNS), dtype=np.uint32).view(np.float32)
    made = {
        "normal": normal * 0.02,
        "constant": np.full((4, COLUMNS), 0.37),
        "zero": np.zeros((4, COLUMNS)),
        "negative zero": -np.zeros((4, COLUMNS)),
        "huge": normal * 1e37,
        "tiny": normal * 1e-37,
        "denormal": normal * 1e-42,
        "least denormals": draw.integers(-3, 4, size=(64, COLUMNS)) * 1.4e-45,
        "outliers": normal * np.where(draw.random(normal.shape) < 0.02, 1e4, 1),
        "one outlier": np.eye(COLUMNS)[:64] * 5 + 1e-3,
        "ties": halves,
        "ties of floats": (draw.integers(0, 2**16, size=(64, COLUMNS), dtype=np.uint32) << 15).view(np.float32),
        "any bits": np.where(np.isfinite(bits), bits, 1),
    }
    with np.errstate(invalid="ignore"):
        values = np.ascontiguousarray(made[name], np.float32)
    return np.where(np.isfinite(values), values, np.float32(1))


CASES = (
    *("normal", "constant", "zero", "negative zero", "huge", "tiny", "denormal", "least denormals", "outliers"),
    *("one outlier", "ties", "ties of floats", "any bits"),
)


def _needed(name: str) -> np.ndarray | None:
    """Importance, for the types that cannot do without."""
    return importance("random", COLUMNS) if name in NEED_IMPORTANCE else None


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_equal_ggmls(name: str, case: str) -> None:
    values, weights = _rows(case), _needed(name)
    if name in CODEBOOKS:
        values = fitting(name, values[:32], weights)
    encoded = ENCODERS[name](values, weights)
    assert encoded.dtype == np.uint8
    assert encoded.shape == (len(values), TYPES[name].row_bytes(COLUMNS))
    np.testing.assert_array_equal(encoded, oracle(values, name, weights))


def test_bfloat16_keeps_nan_and_infinity() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    values.view(np.uint32)[0, 0] = 0x7F800001  # a NaN whose upper half alone would be infinity
    np.testing.assert_array_equal(ENCODERS["BF16"](values), oracle(values, "BF16"))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_input_is_not_changed(name: str) -> None:
    values = _rows("normal")
    before = values.copy()
    ENCODERS[name](values, _needed(name))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_importance(name: str) -> None:
    values, weights = _rows("normal"), importance("random", COLUMNS)
    plain = ("F32", "F16", "BF16")  # ggml takes none for these
    np.testing.assert_array_equal(
        ENCODERS[name](values, weights), oracle(values, name, None if name in plain else weights)
    )


@pytest.mark.parametrize("name", sorted(NEED_IMPORTANCE))
def test_importance_that_is_needed_and_not_there(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs the importance of every column"):
        ENCODERS[name](_rows("normal"))


def _decoded(name: str, encoded: np.ndarray) -> np.ndarray:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):
        return dequantize(encoded, GGMLQuantizationType[name])


@pytest.mark.parametrize("name", OVERFLOW)
def test_the_overflow_limit_is_exact(name: str) -> None:
    largest = float(np.finfo(np.float32).max)
    if OVERFLOW[name] > largest:
        assert name == "F32"  # float32 itself ends there
        return
    limit = np.float32(OVERFLOW[name])
    for value, fits in ((np.nextafter(limit, np.float32(0)), True), (limit, False)):
        row = np.zeros((1, 32), np.float32)
        row[0, 3] = value
        assert bool(np.isfinite(_decoded(name, ENCODERS[name](row))).all()) is fits, (name, value)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", [name for name in BLOCKS if name not in ANY_SIZE])
def test_blocks_that_are_too_large_are_found(name: str, weighted: bool) -> None:
    """Where the scales are finite all values read back as numbers, and nowhere else."""
    values = np.random.default_rng(5).normal(size=(48, COLUMNS)).astype(np.float32)
    values *= np.geomspace(1e3, 1e12, 48, dtype=np.float32)[:, None]  # from what fits all to what fits none
    encoded = ENCODERS[name](values, importance("random", COLUMNS) if weighted else _needed(name))
    found = overflowing(name, encoded)
    finite = np.isfinite(_decoded(name, encoded)).reshape(48, -1, TYPES[name].values)
    np.testing.assert_array_equal(~found, finite.all(axis=2))
    assert found.any()
    assert not found.all()
    assert not found[np.abs(values).max(axis=1) < ALWAYS_FITS].any()


@pytest.mark.parametrize("name", ANY_SIZE)
def test_nothing_becomes_infinite_in_scales_of_eight_bits(name: str) -> None:
    assert np.isfinite(_decoded(name, ENCODERS[name](_rows("huge")))).all()


def test_names_and_sizes_do_not_wait_for_numba() -> None:
    code = "import sys, quantize.encoders, quantize.mixes; print('numba' in sys.modules)"
    assert processes.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
