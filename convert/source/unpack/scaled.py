"""Values times scales: one for the tensor, for each row, for groups of columns or for blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from convert.source.unpack.matrix import Rows, as_floats, require

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor


def scaled(values: Rows, shape: tuple[int, ...], scale: LazyTensor, block: Sequence[int] | None = None) -> Rows:
    """Rows of a tensor of `shape` whose last two axes are those of matrices, `block` (rows, columns) to a scale.

    Without a `block` the number of scales says how many share one.
    """
    scales = as_floats(scale)
    if scales.ndim < len(shape) or scales.size == 1:  # of the tensor, its rows, its experts
        scales = scales.reshape(*scales.shape[: len(shape)], *(1,) * (len(shape) - scales.ndim))
    *outer, rows, columns = shape
    grid = scales.shape[-2:]
    each = _each(grid, (rows, columns), block)
    fits = scales.ndim == len(shape) and grid == (-(-rows // each[0]), -(-columns // each[1]))
    fits = fits and all(have in (1, wanted) for have, wanted in zip(scales.shape[:-2], outer, strict=True))
    require(fits, scale, f"scales of {list(shape)}" + (f" in blocks of {list(block)}" if block else ""))
    return _rows(values, scales, shape, each)


def _each(grid: Sequence[int], shape: tuple[int, int], block: Sequence[int] | None) -> tuple[int, int]:
    """How many rows and columns share a scale."""
    if block is not None and tuple(grid) != (1, 1) and not (grid[1] == 1 and grid[0] == shape[0]):
        return block[0], block[1]
    return max(1, shape[0] // max(1, grid[0])), max(1, shape[1] // max(1, grid[1]))


def _rows(values: Rows, scales: np.ndarray, shape: tuple[int, ...], each: tuple[int, int]) -> Rows:
    columns = np.arange(shape[-1]) // each[1]

    def of_matrix(start: int, stop: int) -> np.ndarray:
        return np.asarray(values(start, stop) * scales[np.arange(start, stop) // each[0]][:, columns])

    def of_stack(start: int, stop: int) -> np.ndarray:
        own = scales if len(scales) == 1 else scales[start:stop]
        spread = own[..., np.arange(shape[-2]) // each[0], :][..., columns]
        return np.asarray(values(start, stop) * spread)

    return of_matrix if len(shape) == 2 else of_stack


def less(values: Rows, zeros: Callable[[int, int], np.ndarray]) -> Rows:
    """Values less their zero points."""
    return lambda start, stop: np.asarray(values(start, stop) - zeros(start, stop))
