"""The plain float types: F32, F16, BF16. Arrays in, bytes out, bit for bit what ggml writes.

The encoders take importance weights as all encoders do; they change nothing here.
"""

from __future__ import annotations

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
    return _sixteen_bits(values, "to_float16")


def bf16(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """uint8 (rows, 2 * n) of float32 `values` (rows, n), rounded to nearest, ties to even; NaN stays NaN (quiet)."""
    return _sixteen_bits(values, "to_bfloat16")


def _sixteen_bits(values: np.ndarray, kernel: str) -> np.ndarray:
    from quantize import halves  # numba, which takes half a second to import

    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    out = np.empty(bits.shape, np.uint16)
    getattr(halves, kernel)(bits.reshape(-1), out.reshape(-1))
    return out.view(np.uint8)


def bf16_to_f32(bits: np.ndarray) -> np.ndarray:
    """float32 of the bfloat16 numbers whose 16 bits are `bits` (uint16, any shape)."""
    wide = np.empty(bits.shape, np.uint32)
    np.left_shift(bits, 16, out=wide, dtype=np.uint32, casting="unsafe")
    return wide.view(np.float32)
