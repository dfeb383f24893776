"""One weight while it is quantized: its levels, scales and zero points, columns first, and what makes them better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize import columns as kernels
from quantize.grids import Grid, Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from quantize.gptq import Inputs

BLOCK = 64
"""Columns that a kernel works on before the others are told, by a matrix product."""

PARTS = np.array([1.05 - 0.025 * k for k in range(24)], np.float32)
"""The parts of a group's range that are tried for its scale."""


@dataclass
class Work:
    """values, levels (columns, rows); scales, zeros (groups, rows): float32. `width`: columns of a group.

    A weight is worth (level - zero) * scale / factor, `factors` (columns, 1) being AWQ's, by which what is in front
    divides its outputs.
    """

    values: Tensor
    factors: Tensor
    levels: Tensor
    scales: Tensor
    zeros: Tensor
    width: int
    top: int

    @classmethod
    def of(cls, values: Tensor, factors: Tensor, grid: Grid, costs: Tensor, parts: np.ndarray = PARTS) -> Work:
        """With scales and zero points of the least error weighted by `costs`, both it and `factors` (columns,)."""
        import torch

        columns, rows = values.shape
        width = grid.width(columns)
        scales, zeros = torch.empty(columns // width, rows), torch.empty(columns // width, rows)
        by = factors.reshape(-1, 1)
        weights = costs.reshape(-1, 1) / by.square()
        for group in range(columns // width):
            part = slice(group * width, (group + 1) * width)
            arrays = (
                (values[part] * by[part]).numpy(),
                weights[part].numpy(),
                parts,
                np.float32(grid.top),
                grid.symmetric,
            )
            out = np.float32(grid.lowest_zero), scales[group].numpy(), zeros[group].numpy()
            _in_parallel(kernels.search, rows, *arrays, *out)
        return cls(values, by, torch.empty_like(values), scales, zeros, width, grid.top)

    def parts(self) -> list[slice]:
        """The columns of each group."""
        return [slice(at, at + self.width) for at in range(0, len(self.values), self.width)]

    def spread(self, grouped: Tensor) -> Tensor:
        """(columns, rows) of (groups, rows)."""
        return grouped.repeat_interleave(self.width, 0)

    def round(self) -> None:
        """Every level to the nearest."""
        levels = self.values * self.factors / self.spread(self.scales) + self.spread(self.zeros)
        self.levels = levels.round_().clamp_(0, self.top)

    def current(self, part: slice) -> Tensor:
        """(width, rows): what the columns of one group are worth now."""
        group = part.start // self.width
        return (self.levels[part] - self.zeros[group]) * self.scales[group] / self.factors[part]

    def errors(self) -> Tensor:
        """(columns, rows): quantized less given."""
        levels = self.levels - self.spread(self.zeros)
        return levels.mul_(self.spread(self.scales)).div_(self.factors).sub_(self.values)

    def quantized(self, loss: float) -> Quantized:
        """Rows first, as files have it."""
        scales = self.scales.T.numpy().astype(np.float16)
        integers, zeros = (part.T.contiguous().numpy().astype(np.uint8) for part in (self.levels, self.zeros))
        return Quantized(integers, np.ascontiguousarray(scales), zeros, None, loss)


def carry_errors(work: Work, inputs: Inputs) -> None:
    """GPTQ: fills in the levels."""
    import torch

    order, upper = inputs.order, inputs.upper
    values, levels = work.values[order], torch.empty_like(work.values)
    groups = order // work.width
    top, rows = np.float32(work.top), values.shape[1]
    for at in range(0, len(values), BLOCK):
        part, rest = slice(at, at + BLOCK), slice(at + BLOCK, None)
        steps, zeros = work.scales[groups[part]] / work.factors[order[part]], work.zeros[groups[part]]
        errors = torch.empty_like(steps)
        arrays = (values[part], steps, zeros, upper[part, part].contiguous())
        out = levels[part].numpy(), errors.numpy()
        _in_parallel(kernels.carry, rows, *(array.numpy() for array in arrays), top, *out)
        values[rest].addmm_(upper[part, rest].T, errors, alpha=-1)
    work.levels[order] = levels


def descend(work: Work, gram: Tensor, turns: int) -> None:
    """Coordinate descent: in each turn, group by group, the scale and then each level to where the error is least.

    After the last turn come the scales once more; with no turn at all, only they.
    """
    gradient = gram @ work.errors()
    for turn in range(turns + 1):
        for part in work.parts():
            own, before = gram[part, part].contiguous(), work.current(part)
            local = _refit(work, part, own, gradient[part])
            if turn < turns:  # the last turn is the scales' alone
                _descend_group(work, part, own, local)
            gradient.addmm_(gram[:, part], work.current(part) - before)


def _refit(work: Work, part: slice, own: Tensor, gradient: Tensor) -> Tensor:
    """Changes the group's scales to those that fit best; returns the gradient after it, as a copy."""
    import torch

    group = part.start // work.width
    levels = (work.levels[part] - work.zeros[group]) / work.factors[part]
    turned = own @ levels
    slope, curve = (levels * gradient).sum(0), (levels * turned).sum(0)
    scales = work.scales[group]
    better = half(torch.where(curve > 0, scales - slope / curve.clamp(min=1e-30), scales))
    # rounding may lose what little there was to win
    change = better - scales
    change = torch.where(change * (2 * slope + change * curve) < 0, change, torch.zeros_like(change))
    work.scales[group] = scales + change
    return torch.addcmul(gradient, turned, change)


def _descend_group(work: Work, part: slice, own: Tensor, gradient: Tensor) -> None:
    import torch

    group, rows = part.start // work.width, gradient.shape[1]
    levels = work.levels[part]
    for at in range(0, work.width, BLOCK):
        block, rest = slice(at, at + BLOCK), slice(at + BLOCK, None)
        moves = torch.empty_like(gradient[block])
        steps = work.scales[group] / work.factors[part][block]
        arrays = gradient[block].numpy(), own[block, block].contiguous().numpy(), steps.numpy()
        _in_parallel(kernels.descend, rows, *arrays, np.float32(work.top), levels[block].numpy(), moves.numpy())
        gradient[rest].addmm_(own[rest, block], moves)


def half(values: Tensor) -> Tensor:
    """The nearest numbers that float16 has; none of them 0 or infinite."""
    import torch

    smallest = float(kernels.SMALLEST)
    size = values.abs().clamp(smallest, 65504.0).half().float()
    return torch.where(values < 0, -size, size)


def _in_parallel(kernel: Callable[..., None], rows: int, *arguments: object) -> None:
    import torch

    kernels.side_by_side(lambda first, last: kernel(*arguments, first, last), rows, torch.get_num_threads())
