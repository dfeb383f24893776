"""How errors in the tensors of a checkpoint count, by the gradients that a calibration stage kept.

Gradients are by the parameters of the loaded model. A checkpoint may call these otherwise, and may hold each expert's
matrices apart that the model holds as one: all gate and up projections of a layer, one above the other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convert.bundle import Bundle, Role
from convert.model import fisher_file
from convert.model.fisher_file import FisherFile, MatrixFisher
from convert.model.sensitivity import Weighing

EXPERT = re.compile(
    r"\blayers\.(?P<layer>\d+)\..*\bexperts\.(?P<expert>\d+)\."
    r"(?:(?P<gate>gate_proj|w1)|(?P<up>up_proj|w3)|(?P<down>down_proj|w2))\.weight$"
)
PACKED = re.compile(r"\blayers\.(?P<layer>\d+)\..*\bexperts\.(?P<name>gate_up_proj|up_proj|down_proj)$")


@dataclass(frozen=True, eq=False)
class Gradients:
    """What a file of gradients says of a checkpoint's tensors."""

    fisher: FisherFile

    @classmethod
    def of(cls, source: Bundle) -> Gradients | None:
        """Those of a bundle; None where none were measured."""
        files = source.of(Role.GRADIENTS)
        return cls(fisher_file.load(files[0].path)) if files else None

    def matrix(self, tensor: str) -> Weighing | None:
        """Of a matrix, or of a stack of them; None where no gradient went through it."""
        found = self.fisher.matrices.get(self._parameters.get(tensor, tensor))
        return _weighing(found) if found is not None else self._expert(tensor)

    def embedding(self, tensor: str) -> Weighing | None:
        """Of a table that tokens are looked up in."""
        values = self.fisher.by_token.get(self._parameters.get(tensor, tensor))
        return None if values is None else Weighing(values[None], np.ones((1, 1), np.float32))

    def head(self, outputs: int) -> Weighing | None:
        """Of the head that is the embedding too: no tensor of the checkpoint has its name."""
        named = (one for name, one in self.fisher.matrices.items() if name not in self.fisher.sources)
        found = next((one for one in named if one.rows.shape == (1, outputs)), None)
        return None if found is None else _weighing(found)

    @cached_property
    def usual(self) -> float:
        """What an output counts in the middle of all matrices: for those that no gradient went through."""
        means = [float(one.rows.mean()) for one in self.fisher.matrices.values()]
        return float(np.median(means)) if means else 1.0

    @cached_property
    def _parameters(self) -> dict[str, str]:
        return {tensor: parameter for parameter, tensor in self.fisher.sources.items()}

    @cached_property
    def _packed(self) -> dict[tuple[str, str], MatrixFisher]:
        """(layer, word) -> the experts of a layer, as the model holds them."""
        named = ((PACKED.search(name), one) for name, one in self.fisher.matrices.items())
        return {(match["layer"], match["name"]): one for match, one in named if match}

    def _expert(self, tensor: str) -> Weighing | None:
        match = EXPERT.search(tensor)
        if match is None:
            return None
        layer, number = match["layer"], int(match["expert"])
        if match["down"]:
            return _one(self._packed.get((layer, "down_proj")), number)
        together = self._packed.get((layer, "gate_up_proj"))
        if together is None:
            return _one(self._packed.get((layer, "up_proj")), number) if match["up"] else None
        half = together.rows.shape[1] // 2
        rows = together.rows[:, :half] if match["gate"] else together.rows[:, half:]
        return _one(MatrixFisher(rows, together.squares, together.rounding), number)


def _one(matrix: MatrixFisher | None, number: int) -> Weighing | None:
    """Of the expert `number` alone."""
    if matrix is None or number >= len(matrix.rows):
        return None
    one = slice(number, number + 1)
    rounding = {size: values[one] for size, values in matrix.rounding.items()}
    return Weighing(matrix.rows[one], matrix.squares[one], rounding)


def _weighing(matrix: MatrixFisher) -> Weighing:
    return Weighing(matrix.rows, matrix.squares, matrix.rounding)
