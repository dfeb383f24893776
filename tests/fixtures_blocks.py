"""More rows that are hard for blocks of 32 values, and the comparison with ggml block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.blocks import TYPES
from quantize.encoders import ENCODERS, overflowing
from tests import fixtures_quantize
from tests.fixtures_quantize import oracle

Encoder = Callable[[np.ndarray, "np.ndarray | None"], np.ndarray]
Case = Callable[[np.random.Generator, int, int], np.ndarray]
_LARGEST = float(np.finfo(np.float32).max)


def _ties(draw: np.random.Generator, rows: int, n: int) -> np.ndarray:
    """Halves whose scale is a power of two in some types: rounding to even and away from zero differ."""
    values = draw.integers(-254, 255, size=(rows, n)) / 2
    values[:, ::32] = draw.choice([-128, 127, 120, -112], size=values[:, ::32].shape)
    return values


def _each_block(numbers: np.ndarray) -> np.ndarray:
    return np.repeat(numbers, 32, axis=1)


_MORE: dict[str, Case] = {
    "ties": _ties,
    "signed zeros": lambda draw, rows, n: draw.choice([-0.0, 0.0, 0.5], size=(rows, n), p=[0.48, 0.48, 0.04]),
    "some zero blocks": lambda draw, rows, n: (
        draw.normal(size=(rows, n)) * _each_block(draw.random((rows, n // 32)) < 0.5)
    ),
    "both signs of the largest": lambda draw, rows, n: draw.choice([-1.0, 1.0, 0.3, 0.1], size=(rows, n)),
    "largest": lambda draw, rows, n: draw.choice([_LARGEST, -_LARGEST, 1.0, 0.0], size=(rows, n)),
    "scale is denormal": lambda draw, rows, n: draw.normal(size=(rows, n)) * 1e-39,  # 1 / scale is finite or not
    "all magnitudes": lambda draw, rows, n: (
        draw.normal(size=(rows, n)) * 10.0 ** _each_block(draw.integers(-44, 38, (rows, n // 32)))
    ),
}
CASES = (*fixtures_quantize.CASES, *_MORE)


def rows_of(case: str, rows: int, n: int, seed: int = 1) -> np.ndarray:
    """Finite float32 (rows, n) of one of CASES."""
    if case in fixtures_quantize.CASES:
        return fixtures_quantize.rows(case, (rows, n), seed)
    return _MORE[case](np.random.default_rng(seed), rows, n).astype(np.float32)


CODEBOOKS = frozenset({"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"})
"""Types for whose blocks ggml ends the process when a distance is infinite, so it cannot be asked about them."""


def fitting(name: str, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """The rows of `values` of which every block gets a scale that is a number."""
    fits = ~overflowing(name, ENCODERS[name](values, weights)).any(axis=1)
    return np.ascontiguousarray(values[fits])


def assert_bytes_are_ggmls(encode: Encoder, name: str, values: np.ndarray, weights: np.ndarray | None = None) -> None:
    """Fails with the first differing block, its bytes and ggml's."""
    before = values.copy()
    encoded, wanted = encode(values, weights), oracle(values, name, weights)
    assert encoded.dtype == np.uint8
    assert encoded.shape == wanted.shape
    assert np.array_equal(values.view(np.uint32), before.view(np.uint32)), "the input was changed"
    kind = TYPES[name]
    differ = np.flatnonzero((encoded != wanted).reshape(-1, kind.bytes).any(axis=1))
    if differ.size:
        b = int(differ[0])
        ours, theirs = (some.reshape(-1, kind.bytes)[b] for some in (encoded, wanted))
        raise AssertionError(
            f"{name}: {differ.size} of {encoded.size // kind.bytes} blocks differ, the first is block {b} of values\n"
            f"{values.reshape(-1, kind.values)[b]}\n{ours} ours\n{theirs} ggml's"
        )
