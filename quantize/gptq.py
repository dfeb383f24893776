"""GPTQ: integers whose errors make up for each other, as the Gram matrix of the inputs says they can.

What is made small is |X W' - X W|^2 / tokens = tr((W' - W) H (W' - W)^T), H = X^T X / tokens. The steps, all of them
independent for each row of W (an output):

1. scales: for each group of columns the range, of many tried, with the least error as GPTQ will count it
   (`Inputs.remaining`);
2. GPTQ itself: columns by falling importance, each rounded and its error carried into those to come (Frantar and
   others 2022; with scales found before, groups may stay neighbours: "static groups", no g_idx in the file);
3. turns of coordinate descent, group by group: the scale that fits its integers best, all else given, in closed
   form; then each integer of it goes where the error is least. No turn makes the error larger.

Scales are rounded to float16 as soon as they are known: integers are made for what the file holds.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quantize import triangular
from quantize.descent import Work, carry_errors, descend
from quantize.grids import Grid, Quantized, checked

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Effort:
    """How long the search for integers goes on: so many turns of coordinate descent.

    `plain`: every weight to the nearest level, in ranges that are clipped where that costs the least; no GPTQ. `damp`:
    what part of its diagonal's mean is added to the Gram matrix' diagonal.
    """

    turns: int = 4
    plain: bool = False
    damp: float = 0.01


NORMAL, HIGH, PLAIN = Effort(), Effort(turns=16), Effort(turns=0, plain=True)
DAMP = Effort.damp


class Inputs:
    """What GPTQ knows of the inputs of a weight: their Gram matrix and what is computed of it once for all its weights.

    `damp` times the mean of the diagonal is added to it: what was never seen must not be taken for impossible. Where
    that does not make it positive definite, ten times as much is tried, and so on; then the same in float64. A column
    that is zero in all inputs ("dead") gets the mean as its importance: its weights are rounded to nearest.

    damped (columns, columns): the matrix with what was added to its diagonal, added (columns,). upper: the upper
    Cholesky factor of the inverse of `damped` with its columns in `order`, by falling importance. Both are as large as
    the Gram matrix; half of one more is needed for a moment. `own`: the matrix given may be changed, not copied.
    """

    def __init__(self, gram: np.ndarray | Tensor, damp: float = DAMP, own: bool = False) -> None:
        import torch

        given = checked(np.asarray(gram), "the Gram matrix")
        if given.shape[0] != given.shape[1]:
            raise ValueError(f"a Gram matrix is square, not {given.shape}")
        self.damped = torch.from_numpy(given if own else given.copy())
        diagonal = self.damped.diagonal().clone()
        mean = float(diagonal.mean()) or 1.0
        self.order = torch.argsort(diagonal, descending=True, stable=True)
        self.damped.diagonal()[diagonal <= 0] = mean
        self.upper, self.damp = _inverse_factor(self.damped, self.order, damp, mean)
        self.damped.diagonal().add_(self.damp * mean)
        self.added = self.damped.diagonal() - diagonal
        self._together: dict[int, Inputs] = {}

    @property
    def columns(self) -> int:
        """How many there are."""
        return len(self.damped)

    @property
    def diagonal(self) -> Tensor:
        """(columns,): the mean square of each input."""
        return (self.damped.diagonal() - self.added).clamp(min=0)

    def loss(self, errors: Tensor) -> float:
        """The mean over rows of the squared error of an output, for errors (columns, rows) of the weights."""
        total = ((self.damped @ errors) * errors).sum() - (errors.square().sum(1) * self.added).sum()
        return float(total / errors.shape[1])

    def remaining(self) -> Tensor:
        """(columns,): what a squared error of a column costs when all columns after it have made up for what they can.

        That is the variance of the input given those that come after it in the order; of scales searched with it GPTQ
        makes 5 % less error than of scales searched with the diagonal of H.
        """
        import torch

        costs = torch.empty(self.columns)
        costs[self.order] = self.upper.diagonal() ** -2
        return costs

    def by_neighbours(self, size: int) -> Inputs:
        """The same with the columns in an order in which so many neighbours stay together; kept for the next time."""
        import torch

        if size not in self._together:
            other = copy.copy(self)
            groups = torch.argsort(self.damped.diagonal().view(-1, size).sum(1), descending=True, stable=True)
            other.order = (groups[:, None] * size + torch.arange(size)).view(-1)
            other.upper, _ = _inverse_factor(self.damped, other.order, 0.0, 1.0)
            self._together[size] = other
        return self._together[size]

    def sorted(self) -> Inputs:
        """The same with the columns in the order in which GPTQ takes them."""
        import torch

        other = copy.copy(self)
        other.damped, other.added = self.damped[self.order][:, self.order], self.added[self.order]
        other.order = torch.arange(len(self.order))
        return other


def _inverse_factor(gram: Tensor, order: Tensor, damp: float, mean: float) -> tuple[Tensor, float]:
    """The upper Cholesky factor of the damped matrix's inverse, columns in this order, and the damping it took."""
    import torch

    for exact in (False, True):
        tried = damp
        while tried <= 10:
            matrix = gram[order][:, order]
            matrix = matrix.double() if exact else matrix
            matrix.diagonal().add_(tried * mean)
            upper = triangular.inverse_factor(matrix)
            if upper is not None and bool(torch.isfinite(upper).all()):
                return upper.float(), tried
            tried = max(tried, 1e-4) * 10
    raise ValueError(
        "the Gram matrix is not positive definite, however much is added to its diagonal: no inputs have such a one"
    )


def quantize(
    weight: np.ndarray | Tensor, inputs: Inputs, grid: Grid, effort: Effort = NORMAL, factors: np.ndarray | None = None
) -> Quantized:
    """`weight` (rows, columns) on `grid`, for inputs with that Gram matrix; rows of several weights may be stacked.

    `factors` (columns,), AWQ's: it is weight * factors that is quantized, for inputs divided by them.
    ValueError: a number that is not finite, columns that are not the inputs' or fill no whole groups.
    """
    import torch

    values = torch.from_numpy(checked(np.asarray(weight), "the weight"))
    if values.shape[1] != inputs.columns:
        raise ValueError(f"a weight of {values.shape[1]} columns for a Gram matrix of {inputs.columns}")
    by = torch.ones(inputs.columns) if factors is None else torch.from_numpy(np.asarray(factors, np.float32))
    with torch.inference_mode():
        if not grid.ordered:
            return _solve(values.T.contiguous(), by, inputs, grid, effort)
        order = inputs.order
        made = _solve(values.T[order], by[order], inputs.sorted(), grid, effort)
    back = torch.argsort(order).numpy()
    groups = (back // grid.width(len(back))).astype(np.int32)
    return replace(made, integers=np.ascontiguousarray(made.integers[:, back]), g_idx=groups)


def _solve(values: Tensor, factors: Tensor, inputs: Inputs, grid: Grid, effort: Effort) -> Quantized:
    """`values` is the weight, columns first."""
    work = first_levels(values, factors, inputs, grid, effort)
    descend(work, inputs.damped, effort.turns)
    return work.quantized(inputs.loss(work.errors()))


def first_levels(values: Tensor, factors: Tensor, inputs: Inputs, grid: Grid, effort: Effort) -> Work:
    """What the turns of descent begin with."""
    if effort.plain:
        work = Work.of(values, factors, grid, inputs.damped.diagonal())
        work.round()
        return work
    work = Work.of(values, factors, grid, inputs.remaining())
    carry_errors(work, inputs)
    return work
