"""Rows that are hard to encode, importance weights, and ggml's own encoder as the oracle."""

from __future__ import annotations

import ctypes as C
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from quantize.blocks import TYPES

Encoder = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
LARGEST = float(np.finfo(np.float32).max)


@cache
def _ggml() -> C.CDLL:
    import xllamacpp

    library = C.CDLL(str(next(Path(xllamacpp.__path__[0]).glob("xllamacpp*.so"))))
    library.ggml_quantize_chunk.restype = C.c_size_t
    library.ggml_quantize_chunk.argtypes = [C.c_int, C.c_void_p, C.c_void_p, *[C.c_int64] * 3, C.c_void_p]
    return library


def oracle(values: np.ndarray, name: str, weights: np.ndarray | None = None) -> np.ndarray:
    """What ggml_quantize_chunk makes of float32 `values` (rows, n): uint8 (rows, row bytes)."""
    kind = TYPES[name]
    out = np.zeros((len(values), kind.row_bytes(values.shape[1])), np.uint8)
    importance = None if weights is None else weights.ctypes.data
    written = _ggml().ggml_quantize_chunk(kind.id, values.ctypes.data, out.ctypes.data, 0, *values.shape, importance)
    assert written == out.nbytes
    return out


def _ties(draw: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Halves whose scale is a power of two in some types: what rounding to even or away from zero tells apart."""
    values = draw.integers(-254, 255, size=(rows, n)) / 2
    values[:, ::32] = draw.choice([-128, 127, 120, -112], size=values[:, ::32].shape)
    return values


def _any_bits(draw: np.random.Generator, rows: int, n: int) -> np.ndarray:
    bits = draw.integers(0, 2**32, size=(rows, n), dtype=np.uint32).view(np.float32)
    return np.where(np.isfinite(bits), bits, np.float32(1))


_CASES: dict[str, Callable[[np.random.Generator, int, int], np.ndarray]] = {
    "normal": lambda draw, rows, n: draw.normal(size=(rows, n)) * 0.02,
    "heavy-tailed": lambda draw, rows, n: draw.standard_t(2, size=(rows, n)),
    "outliers": lambda draw, rows, n: draw.normal(size=(rows, n)) * np.where(draw.random((rows, n)) < 0.02, 1e4, 1),
    "one outlier": lambda draw, rows, n: np.roll(np.eye(rows, n), 7, axis=1) * -5 + 1e-3,
    "positive": lambda draw, rows, n: np.abs(draw.normal(size=(rows, n))),
    "negative": lambda draw, rows, n: -np.abs(draw.normal(size=(rows, n))) - 0.3,
    "few values": lambda draw, rows, n: draw.integers(-2, 3, size=(rows, n)) * 0.25,
    "ties": _ties,
    "signed zeros": lambda draw, rows, n: draw.choice(
        [-0.0, 0.0, 0.0, 0.5], size=(rows, n), p=[0.45, 0.45, 0.05, 0.05]
    ),
    "some zero blocks": lambda draw, rows, n: (
        draw.normal(size=(rows, n)) * np.repeat(draw.random((rows, n // 32)) < 0.5, 32, axis=1)
    ),
    "constant": lambda draw, rows, n: np.where(np.arange(rows)[:, None] % 2, 0.37, -0.37) + np.zeros((rows, n)),
    "zero": lambda draw, rows, n: np.zeros((rows, n)),
    "negative zero": lambda draw, rows, n: -np.zeros((rows, n)),
    "float16 limits": lambda draw, rows, n: draw.choice([65504.0, -65504.0, 1.0, 0.0], size=(rows, n)),
    "huge": lambda draw, rows, n: draw.normal(size=(rows, n)).clip(-3.4, 3.4) * 1e37,
    "largest": lambda draw, rows, n: draw.choice([LARGEST, -LARGEST, 1.0, 0.0], size=(rows, n)),
    "tiny": lambda draw, rows, n: draw.normal(size=(rows, n)) * 1e-16,  # either side of what ggml takes for zero
    "tinier": lambda draw, rows, n: draw.normal(size=(rows, n)) * 1e-37,
    "denormal": lambda draw, rows, n: draw.normal(size=(rows, n)) * 1e-39,  # 1 / scale is finite here and there
    "least denormals": lambda draw, rows, n: draw.integers(-3, 4, size=(rows, n)) * 1.4e-45,
    "all magnitudes": lambda draw, rows, n: (
        draw.normal(size=(rows, n)) * 10.0 ** np.repeat(draw.integers(-44, 38, (rows, n // 32)), 32, axis=1)
    ),
    "any bits": _any_bits,
}
CASES = tuple(_CASES)


def rows_of(case: str, rows: int, n: int, seed: int = 1) -> np.ndarray:
    """Finite float32 (rows, n) of the case."""
    with np.errstate(over="ignore"):
        values = _CASES[case](np.random.default_rng(seed), rows, n).astype(np.float32)
    return np.ascontiguousarray(values.clip(-LARGEST, LARGEST))


_IMPORTANCE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "random": lambda draw, n: draw.random(n) ** 4 * 100,
    "with zeros": lambda draw, n: draw.random(n) * (draw.random(n) < 0.5),
    "zero blocks": lambda draw, n: draw.random(n) * np.repeat(draw.random(n // 32) < 0.5, 32),
    "constant": lambda draw, n: np.ones(n),
}
IMPORTANCE = tuple(_IMPORTANCE)


def importance_of(kind: str, n: int, seed: int = 2) -> np.ndarray:
    """float32 (n,) importance weights of the kind."""
    return _IMPORTANCE[kind](np.random.default_rng(seed), n).astype(np.float32)


def assert_bytes_are_ggmls(encode: Encoder, name: str, values: np.ndarray, weights: np.ndarray | None = None) -> None:
    """Fails with the first differing block."""
    before = values.copy()
    encoded, wanted = encode(values, weights), oracle(values, name, weights)
    assert encoded.dtype == np.uint8
    assert encoded.shape == wanted.shape
    assert np.array_equal(values, before), "the input was changed"
    kind = TYPES[name]
    differ = np.flatnonzero((encoded != wanted).reshape(-1, kind.bytes).any(axis=1))
    if differ.size:
        b = int(differ[0])
        raise AssertionError(
            f"{name}: {differ.size} of {encoded.size // kind.bytes} blocks differ, the first is block {b} of values\n"
            f"{values.reshape(-1, kind.values)[b]}\n{encoded.reshape(-1, kind.bytes)[b]} ours\n"
            f"{wanted.reshape(-1, kind.bytes)[b]} ggml's"
        )
