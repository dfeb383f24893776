"""The plain float types: F32, F16, BF16. Arrays in, bytes out, bit for bit what ggml writes."""

from __future__ import annotations

import numpy as np

# From here on, round-to-nearest gives infinity: half a step above the largest number of the type.
F16_OVERFLOW = 65520.0
F32_OVERFLOW = float.fromhex("0x1.ffffffp127")
BF16_OVERFLOW = float.fromhex("0x1.ffp127")


def f32(values: np.ndarray) -> np.ndarray:
    """uint8 (rows, 4 * n) of float32 `values` (rows, n)."""
    return np.ascontiguousarray(values, np.float32).view(np.uint8)


def f16(values: np.ndarray) -> np.ndarray:
    """uint8 (rows, 2 * n) of float32 `values` (rows, n), rounded to nearest, ties to even.

    What is too large becomes infinity, as in ggml; the caller has looked for it (see F16_OVERFLOW).
    """
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(values, np.float32).astype(np.float16).view(np.uint8)


def bf16(values: np.ndarray) -> np.ndarray:
    """uint8 (rows, 2 * n) of float32 `values` (rows, n), rounded to nearest, ties to even; NaN stays NaN (quiet).

    The upper half of a float32 is a bfloat16: adding 0x7fff and the lowest kept bit carries into it exactly when
    rounding must go up (ggml-impl.h, ggml_compute_fp32_to_bf16).
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits >> 16) & 1
    rounded += 0x7FFF
    rounded += bits
    rounded >>= 16
    nan = np.isnan(values)
    if nan.any():
        rounded[nan] = bits[nan] >> 16 | 0x40
    return rounded.astype(np.uint16).view(np.uint8)


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """float32 of the bfloat16 numbers whose 16 bits are `bits` (uint16, any shape)."""
    wide = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=wide, dtype=np.uint32, casting="unsafe")
    return wide.view(np.float32)
