"""The plain float types: F32, F16, BF16. Arrays in, bytes out, bit for bit what ggml writes.

The encoders take importance weights as all encoders do; they change nothing here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

# From here on, round-to-nearest gives infinity: half a step above the largest number of the type.
F16_OVERFLOW = 65520.0
F32_OVERFLOW = float.fromhex("0x1.ffffffp127")
BF16_OVERFLOW = float.fromhex("0x1.ffp127")


def f32(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, 4 * n) of float32 `values` (rows, n)."""
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def f16(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, 2 * n) of float32 `values` (rows, n), rounded to nearest, ties to even.

    What is too large becomes infinity, as in ggml; the caller has looked for it (see F16_OVERFLOW).
    """
    from quantize import halves  # numba, which takes half a second to import

    return _sixteen_bits(values, halves.to_float16)


def bf16(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, 2 * n) of float32 `values` (rows, n), rounded to nearest, ties to even; NaN stays NaN (quiet)."""
    from quantize import halves

    return _sixteen_bits(values, halves.to_bfloat16)


def _sixteen_bits(values: np.ndarray, kernel: Callable[[np.ndarray, np.ndarray], None]) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    out = np.empty(bits.shape, np.uint16)
    kernel(bits.reshape(-1), out.reshape(-1))
    return out.view(np.uint8)


def to_float32(values: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """float32 of `values`: float32 (returned as it is), float64, float16, or the bits of bfloat16 in uint16; any shape.

    `out`, float32 of as many values, is room for the result: filled again and again it stays in the cache.
    """
    if values.dtype == np.float32:
        return values
    if values.dtype == np.float64:
        return values.astype(np.float32)
    from quantize import halves

    bits = np.ascontiguousarray(values).view(np.uint16).reshape(-1)
    wide = np.empty(values.shape, np.float32) if out is None else out[: values.size].reshape(values.shape)
    convert = halves.from_float16 if values.dtype == np.float16 else halves.from_bfloat16
    convert(bits, wide.reshape(-1).view(np.uint32))
    return wide


def largest(values: np.ndarray) -> float:
    """The largest absolute value of what `to_float32` takes; infinity is above all others, NaN above infinity."""
    if not values.size:
        return 0.0
    if values.dtype == np.float64:  # rare, and float32 could not hold it
        return float(np.abs(values).max())
    from quantize import halves

    kind = np.dtype(f"u{values.itemsize}")
    bits = np.ascontiguousarray(values).view(kind).reshape(-1)
    without_sign = kind.type(np.iinfo(kind).max >> 1)
    found = np.array([halves.largest_magnitude(bits, without_sign)], kind)
    return float(to_float32(found.view(values.dtype))[0])
