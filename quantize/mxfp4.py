"""MXFP4: 32 values of 4 bits under one exponent of 8. Only carried from checkpoints that have it, never made here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def repack(operands: Sequence[np.ndarray]) -> np.ndarray:
    """uint8 (rows, 17 * blocks) as ggml has it, of `(values, exponents)` as gpt-oss has them.

    values     (rows, blocks, 16): byte j holds value 2j in its low half and 2j + 1 in its high one
    exponents  (rows, blocks)
    ggml       exponent, then 16 bytes: byte j holds value j in its low half and j + 16 in its high one
               (ggml-common.h, block_mxfp4)
    """
    values, exponents = operands
    low, high = values & 0x0F, values >> 4
    single = np.stack((low, high), axis=-1).reshape(*values.shape[:2], 32)
    packed = np.empty((*values.shape[:2], 17), np.uint8)
    packed[:, :, 0] = exponents.view(np.uint8)
    packed[:, :, 1:] = single[:, :, :16] | single[:, :, 16:] << 4
    return packed.reshape(len(values), -1)
