"""ONNX Runtime's blocks of 4 and 8 bits (MatMulNBits, GatherBlockQuantized): what a matrix consists of.

    weight (rows, columns), rows being outputs; every row in blocks of `block_size` columns, the last filled with zeros
    value = scale * (q - zero), q = 0 .. 2**bits - 1; a symmetric layout stores no zeros: all are 2**(bits - 1)

    values   uint8 (rows, blocks, block_size * bits / 8)   of two numbers of 4 bits the first is in the low half
    scales   float (rows, blocks)
    zeros    uint8 (rows, blocks * bits / 8)               packed likewise; what fills the last byte says nothing

Numbers are made of it in nbits.py, which needs numba.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BITS = (4, 8)
SCALES = ("F32", "F16", "BF16")
"""Types of scales: that of the activations."""


@dataclass(frozen=True)
class Layout:
    """How a matrix is stored. ValueError for what there is not."""

    bits: int = 4
    block_size: int = 32
    symmetric: bool = True
    scales: str = "F32"

    def __post_init__(self) -> None:
        size = self.block_size
        if self.bits not in BITS or size < 16 or size > 256 or size & (size - 1) or self.scales not in SCALES:
            got = f"{self.bits} bits in blocks of {size} with {self.scales} scales"
            raise ValueError(f"{got}; there are 4 and 8, blocks of 16, 32, 64, 128 and 256, and {', '.join(SCALES)}")

    @property
    def top(self) -> int:
        """The highest level."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of a symmetric layout."""
        return 1 << (self.bits - 1)

    def blocks(self, columns: int) -> int:
        """Blocks of a row."""
        return -(-columns // self.block_size)

    def shapes(self, rows: int, columns: int) -> list[tuple[int, ...]]:
        """Shapes of the values, the scales and, where there are some, the zeros."""
        blocks, packed = self.blocks(columns), 8 // self.bits
        shapes: list[tuple[int, ...]] = [(rows, blocks, self.block_size // packed), (rows, blocks)]
        return shapes if self.symmetric else [*shapes, (rows, -(-blocks // packed))]


@dataclass(frozen=True)
class Encoded:
    """A matrix's parts: values, scales as float32 whatever type they will have, and zeros where there are some."""

    values: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None
