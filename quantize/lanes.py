"""Rows of values through a kernel that encodes LANES blocks at a time."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quantize.blocks import TYPES
from quantize.simd import LANES

Kernel = Callable[..., None]


def encode(name: str, plain: Kernel, weighted: Kernel, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """uint8 (rows, row bytes): `values` (rows, n) as blocks of type `name`; ValueError where lengths do not fit.

    `plain(values, out)` and `weighted(values, weights, first, out)` are kernels over flat arrays, float32 and uint8,
    of a multiple of LANES blocks; `first` is the number of the first of them, counted over all rows. The weights they
    get are those of a row and then of LANES blocks more, from the row's beginning again: with block b of a row in lane
    0, those of all lanes stand from b on, also where the next lanes are in the next rows.
    """
    kind = TYPES[name]
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty((len(values), kind.row_bytes(values.shape[1])), np.uint8)
    flat, encoded = values.reshape(-1), out.reshape(-1)
    if weights is not None:
        if weights.shape != values.shape[1:]:
            raise ValueError(
                f"{weights.size} weights for rows of {values.shape[1]} values; there is one for each column"
            )
        weights = np.resize(np.asarray(weights, np.float32), values.shape[1] + LANES * kind.values)

    def run(some: np.ndarray, first: int, into: np.ndarray) -> None:
        if weights is None:
            plain(some, into)
        else:
            weighted(some, weights, first, into)

    blocks = values.size // kind.values
    whole = blocks - blocks % LANES
    if whole:
        run(flat[: whole * kind.values], 0, encoded[: whole * kind.bytes])
    if whole < blocks:  # the rest, filled up with zeros
        filled, group = np.zeros(LANES * kind.values, np.float32), np.empty(LANES * kind.bytes, np.uint8)
        rest = flat[whole * kind.values :]
        filled[: rest.size] = rest
        run(filled, whole, group)
        encoded[whole * kind.bytes :] = group[: (blocks - whole) * kind.bytes]
    return out
