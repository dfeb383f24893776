"""Every encoder against ggml itself: the same bytes, on ordinary and on extreme rows."""

from __future__ import annotations

import ctypes as C
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from quantize.blocks import TYPES
from quantize.encoders import ENCODERS, OVERFLOW

COLUMNS = 256  # a row of every block type


@cache
def ggml() -> C.CDLL:
    import xllamacpp

    library = C.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = C.c_size_t
    library.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p, *[C.c_int64] * 3, C.c_void_p]
    return library


def oracle(values: np.ndarray, name: str) -> np.ndarray:
    kind = TYPES[name]
    out = np.zeros((len(values), kind.row_bytes(values.shape[1])), np.uint8)
    written = ggml().ggml_quantize_chunk(kind.id, values.ctypes.data, out.ctypes.data, 0, *values.shape, None)
    assert written == out.nbytes
    return out


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


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_equal_ggmls(name: str, case: str) -> None:
    values = _rows(case)
    encoded = ENCODERS[name](values)
    assert encoded.dtype == np.uint8
    assert encoded.shape == (len(values), TYPES[name].row_bytes(COLUMNS))
    np.testing.assert_array_equal(encoded, oracle(values, name))


def test_bfloat16_keeps_nan_and_infinity() -> None:
    values = np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32)
    values.view(np.uint32)[0, 0] = 0x7F800001  # a NaN whose upper half alone would be infinity
    np.testing.assert_array_equal(ENCODERS["BF16"](values), oracle(values, "BF16"))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_input_is_not_changed(name: str) -> None:
    values = _rows("normal")
    before = values.copy()
    ENCODERS[name](values)
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("name", ENCODERS)
def test_the_overflow_limit_is_exact(name: str) -> None:
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    largest = float(np.finfo(np.float32).max)
    if OVERFLOW[name] > largest:
        assert name == "F32"  # float32 itself ends there
        return
    limit = np.float32(OVERFLOW[name])
    for value, fits in ((np.nextafter(limit, np.float32(0)), True), (limit, False)):
        row = np.zeros((1, 32), np.float32)
        row[0, 3] = value
        with np.errstate(all="ignore"):
            back = dequantize(ENCODERS[name](row), GGMLQuantizationType[name])
        assert bool(np.isfinite(back).all()) is fits, (name, value)
