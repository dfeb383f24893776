"""What a weight may become: the grid of its levels; and what it became."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grid:
    """Levels of `bits` bits; so many neighbouring columns of a row share a scale and a zero point (-1: all of them).

    Symmetric: the zero point is the middle level. `ordered` (desc_act): groups are made of columns that come one after
    the other by importance, and the file needs g_idx. `lowest_zero`: GPTQ's first format has no zero point 0.
    """

    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    ordered: bool = False
    lowest_zero: int = 0

    def __post_init__(self) -> None:
        if self.bits not in (2, 3, 4, 8):
            raise ValueError(f"weights get 2, 3, 4 or 8 bits, not {self.bits}")
        if self.group_size != -1 and self.group_size < 1:
            raise ValueError(f"group_size is -1 or at least 1, not {self.group_size}")

    @property
    def top(self) -> int:
        """The highest level."""
        return (1 << self.bits) - 1

    def width(self, columns: int) -> int:
        """Columns of a group; ValueError where they do not fill whole ones."""
        width = columns if self.group_size == -1 else self.group_size
        if columns % width:
            raise ValueError(f"{columns} columns are no multiple of group_size {width}")
        return width


@dataclass(frozen=True)
class Quantized:
    """A weight (rows, columns) as scale * (integer - zero).

    integers uint8 (rows, columns), scales float16 (rows, groups), zeros uint8 (rows, groups), g_idx int32 (columns,):
    the group of each column; None where neighbours make a group. `loss`: mean over rows of the squared error of an
    output, for inputs whose Gram matrix it was made with.
    """

    integers: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray
    g_idx: np.ndarray | None = None
    loss: float = 0.0

    def groups(self) -> np.ndarray:
        """int32 (columns,): the group of each column."""
        if self.g_idx is not None:
            return self.g_idx
        columns, groups = self.integers.shape[1], self.scales.shape[1]
        return np.arange(columns, dtype=np.int32) // np.int32(columns // groups)

    def dequantized(self) -> np.ndarray:
        """float32 (rows, columns): what a reader of the file computes with."""
        groups = self.groups()
        levels = self.integers.astype(np.float32) - self.zeros.astype(np.float32)[:, groups]
        return np.asarray(levels * self.scales.astype(np.float32)[:, groups])

    def rows(self, first: int, last: int) -> Quantized:
        """Some of its rows: of matrices that were quantized together, one."""
        part = slice(first, last)
        return Quantized(self.integers[part], self.scales[part], self.zeros[part], self.g_idx, self.loss)

    def divided(self, factors: np.ndarray) -> Quantized:
        """Rows divided by `factors` (rows,), in their scales: integers stay. What goes into the columns of the next."""
        scales = (self.scales.astype(np.float32) / factors[:, None]).astype(np.float16)
        return Quantized(self.integers, scales, self.zeros, self.g_idx, self.loss)


def checked(weight: np.ndarray, what: str) -> np.ndarray:
    """`weight` as contiguous float32 (rows, columns); ValueError where it has no such shape or a number not finite."""
    if weight.ndim != 2:
        raise ValueError(f"{what} has the shape {weight.shape}; a matrix has rows and columns")
    values = np.ascontiguousarray(weight, np.float32)
    if not values.flags.writeable:  # mapped from a file: torch takes no such memory
        values = values.copy()
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"{what} has {values[row, column]} in row {row}, column {column}; only finite numbers can be quantized"
        )
    return values
