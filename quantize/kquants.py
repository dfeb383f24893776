"""The k-quants: super-blocks of 256 values whose sub-blocks of 16 or 32 have scales that are quantized in turn.

Every encoder returns uint8 (rows, n / 256 * bytes) of float32 `values` (rows, n), n a multiple of 256, and takes the
importance of each column as float32 `weights` (n,) or None. The bytes are those of ggml_quantize_chunk.
The first call of each compiles for a second or two; the machine code is then kept on disk.
"""

from __future__ import annotations

import numpy as np

from quantize import kquants_affine as affine
from quantize import kquants_symmetric as symmetric
from quantize.lanes import encode


def q2_k(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Q2_K: 16 sub-blocks with 4-bit scale and minimum, 2-bit levels."""
    return encode("Q2_K", affine.q2_k, affine.q2_k_weighted, values, weights)


def q3_k(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Q3_K: 16 sub-blocks with a signed 6-bit scale, 3-bit levels."""
    return encode("Q3_K", symmetric.q3_k, symmetric.q3_k_weighted, values, weights)


def q4_k(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Q4_K: 8 sub-blocks with 6-bit scale and minimum, 4-bit levels."""
    return encode("Q4_K", affine.q4_k, affine.q4_k_weighted, values, weights)


def q5_k(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Q5_K: 8 sub-blocks with 6-bit scale and minimum, 5-bit levels."""
    return encode("Q5_K", affine.q5_k, affine.q5_k_weighted, values, weights)


def q6_k(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Q6_K: 16 sub-blocks with a signed 8-bit scale, 6-bit levels."""
    return encode("Q6_K", symmetric.q6_k, symmetric.q6_k_weighted, values, weights)
