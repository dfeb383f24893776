"""What goes into a linear layer, column by column: the importance that encoders weigh errors with.

Arrays in, arrays out; who runs the model and hands the arrays over is somebody else's affair. Memory is that of the
sums: one float64 a column, however many tokens go by.
"""

from __future__ import annotations

import numpy as np

ROWS_AT_ONCE = 64  # squared in float64 at a time: 10 MB for the widest layers


class SquareSums:
    """Sums of squared activations, one row an expert; a layer that is no mixture of experts is its only expert.

    `sums` is float64 (experts, columns), `counts` int64 (experts,): the tokens that went into each. Squares of float32
    are exact in float64 and their sums as good as: the order of the tokens, and how they come in batches, leave no
    trace in the float32 values. (llama-imatrix adds up in float32.)
    """

    def __init__(self, columns: int, experts: int = 1) -> None:
        self.sums = np.zeros((experts, columns), np.float64)
        self.counts = np.zeros(experts, np.int64)

    @property
    def columns(self) -> int:
        return self.sums.shape[1]

    def add(self, inputs: np.ndarray, expert: int = 0) -> None:
        """Count the rows of `inputs`, float32 (tokens, columns), as inputs of `expert`.

        Raises ValueError for another number of columns, and once a sum is not finite.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.columns:
            raise ValueError(f"inputs of shape {inputs.shape} for {self.columns} columns")
        for start in range(0, len(inputs), ROWS_AT_ONCE):
            rows = inputs[start : start + ROWS_AT_ONCE].astype(np.float64)
            self.sums[expert] += np.square(rows, out=rows).sum(axis=0)
        if not np.isfinite(self.sums[expert]).all():
            raise ValueError("inputs that are not finite")
        self.counts[expert] += len(inputs)

    def values(self) -> np.ndarray:
        """The sums as float32 (experts, columns), the precision files hold; what is too large becomes the largest."""
        return np.minimum(self.sums, np.finfo(np.float32).max).astype(np.float32)
