"""How a folder's weights are stored, and what of it is known before anything is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np

    from convert.formats.onnx.blocks import Encode

BLOCKS = (16, 32, 64, 128, 256)  # groups that are blocks of ONNX Runtime too
WHOLE_ROWS = -1  # a group is all inputs of an output


class Matrix(Protocol):
    """A weight of a graph; convert.formats.onnx.linears.Linear is one."""

    @property
    def inputs(self) -> int: ...
    @property
    def outputs(self) -> int: ...
    @property
    def name(self) -> str: ...
    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]: ...


@dataclass(frozen=True)
class Scheme:
    """How matrices are stored; `encode` is who makes the 4-bit numbers of a graph's layers, where somebody does."""

    precision: str  # fp32 (as they are stored), fp16, int8, int4
    group_size: int = 128
    symmetric: bool = True
    whole_4bit: bool = False  # the head too, as an NPU wants all its layers alike
    encode: Encode | None = None

    def bits(self, matrix: Matrix, fine: bool) -> int:
        """4, 8 or 16 bits for a matrix; `fine` ones are never in fewer than 8."""
        if self.precision != "int4":
            return {"int8": 8, "fp16": 16}[self.precision]
        return 8 if fine or matrix.inputs % self.group_of(matrix) or matrix.inputs % 2 else 4

    def group_of(self, matrix: Matrix) -> int:
        """Inputs that share a scale in 4 bits."""
        return matrix.inputs if self.group_size == WHOLE_ROWS else self.group_size

    def size(self, matrix: Matrix, fine: bool) -> int:
        """Bytes of a matrix with its scales and zero points."""
        bits, count = self.bits(matrix, fine), matrix.inputs * matrix.outputs
        if bits != 4:
            return count * bits // 8 + (2 * matrix.outputs if bits == 8 else 0)
        groups = matrix.outputs * (matrix.inputs // self.group_of(matrix))
        return count // 2 + groups * 2 + (0 if self.symmetric else -(-groups // 2))


@dataclass(frozen=True)
class Asked:
    """What to make."""

    scheme: Scheme
    tokenizer: bool = True
