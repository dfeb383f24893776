"""An importance matrix, whose names are GGUF's, by the checkpoint's own tensors: for formats that are not GGUF."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.formats.gguf.calibration import Matrices, read_matrices
from convert.formats.gguf.imatrix import Imatrix, check_imatrix, read_imatrix


@dataclass(frozen=True)
class ColumnImportance:
    """Mean squares of what goes into the columns of a checkpoint's matrices."""

    imatrix: Imatrix
    matrices: Matrices

    @classmethod
    def of(cls, source: Bundle) -> ColumnImportance | None:
        """That of a bundle; None where it has none. Raises InputError for one of another model."""
        files = [artifact.path for artifact in source.of(Role.IMATRIX)]
        if not files:
            return None
        matrices, imatrix = read_matrices(source), read_imatrix(files[0])
        for problem in check_imatrix(imatrix, matrices.shapes):
            raise InputError(problem.where, problem.got, problem.wanted, problem.remedy)
        return cls(imatrix, matrices)

    def of_tensor(self, name: str, columns: int) -> np.ndarray | None:
        """(columns,) or, of stacked experts, (experts, columns); None of a matrix of which nothing is known."""
        for made in self.matrices.made_of(name):
            if made in self.imatrix.entries and self.matrices.shapes[made][-1] == columns:
                return self.imatrix.weights(made, columns)
        return None
