"""ggml's block types with GPTQ's error feedback: same type, size and layout, levels and scales that drift less.

What is made small is tr(E H E^T), E the errors of a matrix' values and H the Gram matrix of its inputs over the number
of tokens: the squared error of its outputs. Rows do not know of each other. For each of them

1. the ordinary encoder gives scales, and the error to be beaten;
2. GPTQ: columns by falling importance, each to the nearest level of its block's grid, its error carried into those to
   come. Scales stay, so columns can come in any order;
3. turns of descent, part by part: scales and minimums where the error is least, levels given, rounded to what the block
   holds; then each level, all else given. No turn makes the error larger;
4. the same again from the scales that were found;
5. where the error is no smaller than the ordinary encoder's, its bytes are kept.

Bytes depend on the number of threads that torch has for a product of matrices, and on how many rows come together:
callers who want them equal everywhere give it one thread, and cut the rows alike.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize.coded import CODED, Coded, Layout, layout
from quantize.encoders import ENCODERS
from quantize.simd import LANES

if TYPE_CHECKING:
    from torch import Tensor

    from quantize.gptq import Inputs

REFINED = CODED
"""The types that can be refined."""

PART = 128
"""Columns that a kernel works on before the others are told, of types whose blocks are smaller."""

CARRIED = 64
"""The same where errors are carried on."""


_ONE = threading.Lock()
"""Of several threads with the same inputs one makes the factor that all use."""


@dataclass(frozen=True)
class Effort:
    """How long it takes: for each round, one feedback, so many turns of descent and one of the scales alone."""

    rounds: tuple[int, ...] = (1, 4)


NORMAL = Effort()


@dataclass(frozen=True)
class Refined:
    """uint8 (rows, row bytes); float64 (rows,): the squared errors of the outputs by the ordinary encoder and now."""

    encoded: np.ndarray
    before: np.ndarray
    after: np.ndarray


def refine(
    values: np.ndarray, inputs: Inputs, name: str, importance: np.ndarray | None = None, effort: Effort = NORMAL
) -> Refined:
    """float32 `values` (rows, n) in blocks of type `name`, one of REFINED, for inputs with that Gram matrix.

    `importance` (n,): what the ordinary encoder is given, whose error is not exceeded in any row; the diagonal of the
    Gram matrix where None. ValueError where the columns are not the inputs.
    """
    import torch

    grid = layout(name)
    rows, columns = values.shape
    if columns != inputs.columns:
        raise ValueError(f"rows of {columns} values for a Gram matrix of {inputs.columns}")
    ordinary = ENCODERS[name](values, inputs.diagonal.numpy() if importance is None else importance)
    filled = np.zeros((-(-rows // LANES) * LANES, columns), np.float32)
    filled[:rows] = values
    with torch.inference_mode():
        work = _Work.of(ordinary, grid, torch.from_numpy(filled).T.contiguous())
        before = output_errors(inputs, work.errors())[:rows]
        for turns in effort.rounds:
            work.carry_errors(inputs)
            work.descend(inputs, turns)
        after = output_errors(inputs, work.errors())[:rows]
    better = after < before
    made = grid.encoded(work.coded(rows))
    return Refined(np.where(better[:, None], made, ordinary), before, np.where(better, after, before))


def gain(values: np.ndarray, inputs: Inputs, name: str, importance: np.ndarray | None = None, rows: int = 64) -> float:
    """About what part of the ordinary encoder's error is left: of so many rows of `values`, evenly spread.

    For who chooses among many types, and cannot refine the matrix in each.
    """
    some = np.unique(np.linspace(0, len(values) - 1, min(rows, len(values))).astype(int))
    found = refine(np.ascontiguousarray(values[some]), inputs, name, importance)
    return float(found.after.sum() / found.before.sum()) if found.before.any() else 1.0


def output_errors(inputs: Inputs, errors: Tensor) -> np.ndarray:
    """float64 (rows,): the mean squared error of each output, for errors (columns, rows) of the values."""
    total = (inputs.damped @ errors).mul_(errors).sum(0).double()
    return np.asarray((total - (errors.square().mul_(inputs.added[:, None])).sum(0).double()).numpy())


@dataclass
class _Work:
    """Some rows while they are refined, columns first: see coded.py for what they are made of."""

    grid: Layout
    values: Tensor
    levels: Tensor
    d: Tensor
    e: Tensor
    scales: Tensor
    minimums: Tensor

    @classmethod
    def of(cls, encoded: np.ndarray, grid: Layout, values: Tensor) -> _Work:
        """What the blocks hold; rows of zeros up to those of `values`."""
        import torch

        made = []
        for array in grid.coded(encoded).arrays():
            whole = torch.zeros(array.shape[1], values.shape[1])
            whole[:, : len(array)] = torch.from_numpy(array).T
            made.append(whole)
        return cls(grid, values, *made)

    def coded(self, rows: int) -> Coded:
        """The first rows, as files have them."""
        arrays = self.levels, self.d, self.e, self.scales, self.minimums
        return Coded(*(array[:, :rows].T.contiguous().numpy() for array in arrays))

    def steps(self) -> Tensor:
        """(subs, rows): what a level is worth."""
        return self.d.repeat_interleave(len(self.scales) // len(self.d), 0) * self.scales

    def offsets(self) -> Tensor:
        """(subs, rows): what the level 0 is worth."""
        return self.e.repeat_interleave(len(self.scales) // len(self.e), 0) * self.minimums

    def errors(self) -> Tensor:
        """(columns, rows): what the blocks hold less the values."""
        width = self.grid.width
        made = self.levels * self.steps().repeat_interleave(width, 0)
        return made.add_(self.offsets().repeat_interleave(width, 0)).sub_(self.values)

    def carry_errors(self, inputs: Inputs) -> None:
        """GPTQ: fills in the levels."""
        import torch

        from quantize.feedback_kernels import carry

        book, even = self.grid.book, self.grid.even
        if len(book):
            from quantize.feedback_groups import EIGHT, carry_groups

            with _ONE:
                inputs = inputs.by_neighbours(EIGHT)
        order, upper = inputs.order, inputs.upper
        left, subs = self.values[order], order // self.grid.width
        every_step, every_offset = self.steps(), self.offsets()
        table, rows = np.array(self.grid.table, np.float32), left.shape[1]
        for at in range(0, len(left), CARRIED):
            part, rest = slice(at, at + CARRIED), slice(at + CARRIED, None)
            steps, offsets = every_step[subs[part]], every_offset[subs[part]]
            levels, errors = torch.empty_like(steps), torch.empty_like(steps)
            given = _flat(left[part], steps, offsets)
            square = upper[part, part].contiguous().numpy()
            if len(book):
                carry_groups(*given[:2], square, book, even, *_flat(levels, errors), rows)
            else:
                carry(*given, square, *self._limits(), table, *_flat(levels, errors), rows)
            left[rest].addmm_(upper[part, rest].T, errors, alpha=-1)
            self.levels[order[part]] = levels

    def _limits(self) -> tuple[np.float32, np.float32]:
        return np.float32(self.grid.low), np.float32(self.grid.high)

    def descend(self, inputs: Inputs, turns: int) -> None:
        """So many turns of descent, and one of the scales alone."""
        gram = inputs.damped
        gradient = gram @ self.errors()
        size = self.grid.span if self.grid.span > PART else PART
        for turn in range(turns + 1):
            for at in range(0, len(self.values), size):
                part = slice(at, min(at + size, len(self.values)))
                moves = self._visit(part, gram[part, part].contiguous(), gradient[part], turn < turns)
                gradient.addmm_(gram[:, part], moves)

    def _visit(self, part: slice, square: Tensor, gradient: Tensor, turn_levels: bool) -> Tensor:
        """By how much the values of a part change."""
        import torch

        from quantize.feedback_kernels import visit

        grid = self.grid
        subs = slice(part.start // grid.width, part.stop // grid.width)
        spans = slice(part.start // grid.span, part.stop // grid.span)
        sums = square.view(-1, grid.width, len(square)).sum(1)
        words = grid.width, grid.span, grid.low, grid.high, *grid.scales, *grid.minimums, grid.step
        moves = torch.empty_like(gradient)
        held = self.levels[part], self.d[spans], self.e[spans], self.scales[subs], self.minimums[subs]
        given = *_flat(gradient), square.numpy(), sums.numpy(), np.array(words, np.float32)
        out = *_flat(*held, moves), gradient.shape[1], turn_levels
        if len(grid.book):
            from quantize.feedback_groups import visit_groups

            visit_groups(*given, grid.book, grid.even, *out)
        else:
            visit(*given, np.array(grid.table, np.float32), *out)
        return moves


def _flat(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    """The memory of each, in one row."""
    return tuple(tensor.view(-1).numpy() for tensor in tensors)
