"""The block types from before the k-quants: 32 values that share one scale."""

from __future__ import annotations

import numpy as np

from quantize.blocks import Q8_0

_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))
_SLICE = 1 << 16  # values encoded at a time: every temporary stays in the cache


def q8_0(values: np.ndarray) -> np.ndarray:
    """uint8 (rows, n / 32 * 34) of float32 `values` (rows, n), n a multiple of 32.

    A block is d (float16), then 32 int8: q = round(x / d) with d = max|x| / 127, halves away from zero
    (ggml-quants.c, quantize_row_q8_0_ref).
    """
    rows = len(values)
    blocks = np.ascontiguousarray(values, np.float32).reshape(-1, Q8_0.values)
    out = np.empty((len(blocks), Q8_0.bytes), np.uint8)
    step = _SLICE // Q8_0.values
    for start in range(0, len(blocks), step):
        _q8_0_blocks(blocks[start : start + step], out[start : start + step])
    return out.reshape(rows, -1)


def _q8_0_blocks(blocks: np.ndarray, out: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        starts = np.arange(0, blocks.size, Q8_0.values)
        largest = np.maximum.reduceat(np.abs(blocks).reshape(-1), starts)
        scale = largest / np.float32(127)
        inverse = np.float32(1) / scale
        # 1 / scale overflows for zero and for denormals so small that the stored scale is zero anyway
        inverse[np.isinf(inverse)] = 0
        scaled = blocks * inverse[:, None]
        # C's roundf: the largest number below a half, added away from zero, then cut off
        scaled += np.copysign(_BELOW_HALF, scaled)
        out[:, :2] = scale.astype(np.float16).view(np.uint8).reshape(-1, 2)
        out[:, 2:] = scaled.astype(np.int8).view(np.uint8)
