"""Rows as super-blocks of 256 values, some hundred at a time, with the weight of every value; and their scales.

Shared by the types whose blocks are searched by `codebook_search.py`: a super-block has a float16 scale, and its
blocks odd multiples of that, small whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quantize.blocks import TYPES
from quantize.importance import mean_squares
from quantize.simd import LANES

VALUES = 256
_AT_A_TIME = 512  # super-blocks: what is computed of them fits a processor's second cache

WEIGHTED = -1.0
"""As `plain`: there is importance."""


@dataclass(frozen=True)
class SuperBlocks:
    """Some super-blocks and what the weights of their values are made of."""

    values: np.ndarray
    """float32 (super-blocks, 256), contiguous."""
    means: np.ndarray
    """float32 (super-blocks,): their mean squares, or twice that."""
    columns: np.ndarray
    """float32: the importance of each column; and again from the first, as far as lanes reach into the next rows."""
    begin: int
    """The column of the first value."""
    plain: float

    def kernel_input(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, np.float32]:
        """What `codebook_nearest.weigh` takes: means are those of blocks of so many values."""
        means = np.repeat(self.means, VALUES // block)
        return self.values.reshape(-1), self.columns, means, self.begin, np.float32(self.plain)


Pack = Callable[[SuperBlocks], np.ndarray]
"""uint8 (super-blocks, bytes): what the type makes of them."""


@dataclass(frozen=True)
class Weighing:
    """How much an error matters in a value x of column j: importance[j] * sqrt(sigma * mean square + x * x).

    The mean square is the super-block's. Without importance it is `plain` * sigma * mean square + x * x; where that is
    negative there must be importance.
    """

    sigma: float
    plain: float = WEIGHTED


def encode(name: str, pack: Pack, weighing: Weighing, values: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    """uint8 (rows, row bytes): `values` (rows, n) as super-blocks of type `name`, some hundred at a time by `pack`."""
    kind = TYPES[name]
    row_bytes = kind.row_bytes(values.shape[1])
    if importance is None and weighing.plain < 0:
        raise ValueError(f"{name} needs the importance of every column, none is given; an importance matrix has it")
    if importance is not None and importance.shape != values.shape[1:]:
        raise ValueError(
            f"{importance.size} weights for rows of {values.shape[1]} values; there is one for each column"
        )
    flat = np.ascontiguousarray(values, np.float32).reshape(-1, VALUES)
    out = np.empty((len(flat), kind.bytes), np.uint8)
    for start, blocks in _some(flat, weighing, importance):
        span = slice(start, min(start + _AT_A_TIME, len(flat)))
        with np.errstate(all="ignore"):  # what is too large for the type gets an infinite scale
            out[span] = pack(blocks)[: span.stop - start]
    return out.reshape(len(values), row_bytes)


def _some(flat: np.ndarray, weighing: Weighing, importance: np.ndarray | None) -> Iterator[tuple[int, SuperBlocks]]:
    """Super-blocks from a position on, at least LANES, as kernels take them: there are zeros behind the last."""
    row, plain = (1, weighing.plain) if importance is None else (importance.size, WEIGHTED)
    columns = np.zeros(1, np.float32) if importance is None else np.asarray(importance, np.float32)
    columns = np.resize(columns, row + LANES * VALUES)
    for start in range(0, len(flat), _AT_A_TIME):
        values = flat[start : start + _AT_A_TIME]
        if len(values) < LANES:
            values = np.concatenate([values, np.zeros((LANES - len(values), VALUES), np.float32)])
        squares = mean_squares(values.reshape(-1), VALUES, lambda sums: sums * np.float32(weighing.sigma / VALUES))
        means = np.ascontiguousarray(squares[:: VALUES // 32])
        yield start, SuperBlocks(values, means, columns, start * VALUES % row, plain)


def nearest_int(values: np.ndarray) -> np.ndarray:
    """int32: `values` rounded to nearest, ties to even; what is too large as ggml does it (see simd.nearest_int)."""
    return np.asarray(((values + np.float32(12582912.0)).view(np.int32) & 0x7FFFFF) - 0x400000)


def scales_of(scales: np.ndarray, largest: int, factor: float, top: int) -> tuple[np.ndarray, np.ndarray]:
    """float16 bytes (super-blocks, 2) and whole numbers 0..`top` (super-blocks, blocks) of scales of that shape.

    The super-block's scale is the largest of its blocks / `largest`; what is stored is `factor` times that. All zero
    where the largest is.
    """
    scale = largest_of(scales)[:, None] / np.float32(largest)
    levels = nearest_int(np.float32(0.5) * (np.float32(1) / scale * scales - np.float32(1))).clip(0, top)
    levels[scale[:, 0] == 0] = 0
    return (scale * np.float32(factor)).astype("<f2").view(np.uint8), levels.astype(np.uint8)


def largest_of(scales: np.ndarray) -> np.ndarray:
    """float32 (super-blocks,): the largest scale of the blocks of each."""
    return np.asarray(np.maximum.reduce(np.ascontiguousarray(scales.T), axis=0))


def nibbles(levels: np.ndarray) -> np.ndarray:
    """uint8 (rows, n / 2) of numbers 0..15 (rows, n): two in a byte, the first one lower."""
    return np.asarray(levels[:, ::2] | levels[:, 1::2] << 4)
