"""Which layouts MLX has, and what a matrix consists of in each. Numbers are made of it in mlx.py, which needs numba."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

AFFINE = "affine"
BITS = (2, 3, 4, 5, 6, 8)
GROUPS = (32, 64, 128)
FLOATS: Mapping[str, tuple[int, int]] = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Mode -> bits and group: there is one of each."""
DEFAULT = (4, 64)
"""What affine has where nothing is said."""
TYPES = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Layout:
    """How a matrix is stored. ValueError for what MLX does not have."""

    mode: str = AFFINE
    bits: int = DEFAULT[0]
    group_size: int = DEFAULT[1]

    def __post_init__(self) -> None:
        if self.mode in FLOATS:
            if (self.bits, self.group_size) != FLOATS[self.mode]:
                raise ValueError(f"{self.mode} has {FLOATS[self.mode][0]} bits in groups of {FLOATS[self.mode][1]}")
        elif self.mode != AFFINE or self.bits not in BITS or self.group_size not in GROUPS:
            raise ValueError(
                f"{self.mode} of {self.bits} bits in groups of {self.group_size}; MLX has affine of "
                f"{', '.join(map(str, BITS))} bits in groups of {', '.join(map(str, GROUPS))}, {', '.join(FLOATS)}"
            )

    @property
    def parts(self) -> tuple[str, ...]:
        """The tensors of a matrix."""
        return ("weight", "scales", "biases") if self.mode == AFFINE else ("weight", "scales")

    def spec(self, part: str, shape: tuple[int, ...], dtype: str) -> tuple[str, tuple[int, ...]]:
        """safetensors dtype and shape of a part, of a matrix (…, rows, columns) whose floats are `dtype`."""
        *rows, columns = shape
        if part == "weight":
            return "U32", (*rows, columns * self.bits // 32)
        return dtype if self.mode == AFFINE else "U8", (*rows, columns // self.group_size)


@dataclass(frozen=True)
class Encoded:
    """A matrix's parts: weight uint32 (rows, words); scales and biases float32 (rows, groups), or scales uint8."""

    weight: np.ndarray
    scales: np.ndarray
    biases: np.ndarray | None = None
