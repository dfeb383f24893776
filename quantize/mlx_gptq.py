"""GPTQ in MLX's affine layouts: levels whose errors make up for each other, as the Gram matrix of the inputs says.

The steps are those of quantize/gptq.py; a group has a bias of its own type where that has a whole zero point, so that
the refit of a group is a line, two numbers in closed form, and each is what the file can hold before levels move.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from quantize import mlx, mlx_search
from quantize.descent import Work, _descend_group, carry_errors
from quantize.gptq import NORMAL, Effort, Inputs
from quantize.grids import checked
from quantize.mlx_layout import AFFINE, Encoded, Layout

if TYPE_CHECKING:
    from torch import Tensor

_LEAST = 1e-20


def solved(weight: np.ndarray, layout: Layout, dtype: str, inputs: Inputs, effort: Effort = NORMAL) -> Encoded:
    """`weight` (rows, columns), numbers of the type `dtype`, in an affine layout, for inputs of that Gram matrix.

    ValueError: a number that is not finite, columns that are not the inputs' or fill no whole groups.
    """
    import torch

    values = checked(weight, "the weight")
    if layout.mode != AFFINE or values.shape[1] != inputs.columns or inputs.columns % layout.group_size:
        raise ValueError(f"a weight of {values.shape} in {layout} for a Gram matrix of {inputs.columns}")
    costs = mlx_search.costs_of(inputs.remaining().numpy(), inputs.columns)
    scales, biases = mlx_search.affine_scales(values, layout, dtype, costs, torch.get_num_threads())
    scales = np.where(np.abs(scales) < _LEAST, np.float32(1), scales)
    with torch.inference_mode():
        work = _work(values, layout, scales, biases)
        line = _Lines(work, torch.from_numpy(np.ascontiguousarray(biases.T)), dtype)
        carry_errors(work, inputs)
        line.descend(inputs.damped, effort.turns)
        levels = work.levels.T.contiguous().numpy().astype(np.uint8)
    made = (np.ascontiguousarray(part.T.numpy()) for part in (work.scales, line.biases))
    return Encoded(mlx.pack(levels, layout.bits), *made)


def _work(values: np.ndarray, layout: Layout, scales: np.ndarray, biases: np.ndarray) -> Work:
    import torch

    columns = torch.from_numpy(values).T.contiguous()
    steps = torch.from_numpy(np.ascontiguousarray(scales.T))
    zeros = torch.from_numpy(np.ascontiguousarray((-biases / scales).T))
    ones = torch.ones(len(columns), 1)
    return Work(columns, ones, torch.empty_like(columns), steps, zeros, layout.group_size, (1 << layout.bits) - 1)


@dataclass
class _Lines:
    """The groups of a `Work` as lines: a weight is worth level * scale + bias, `biases` (groups, rows)."""

    work: Work
    biases: Tensor
    dtype: str

    def descend(self, gram: Tensor, turns: int) -> None:
        """As quantize/descent.py has it: group by group, the line and then each level to where the error is least."""
        gradient = gram @ self.work.errors()
        for turn in range(turns + 1):
            for part in self.work.parts():
                own, before = gram[part, part].contiguous(), self.work.current(part)
                local = self._refit(part, own, gradient[part])
                if turn < turns:  # the last turn is the lines' alone
                    _descend_group(self.work, part, own, local)
                gradient.addmm_(gram[:, part], self.work.current(part) - before)

    def _refit(self, part: slice, own: Tensor, gradient: Tensor) -> Tensor:
        """Changes the group's lines to those that fit best; returns the gradient after it, as a copy."""
        import torch

        group = part.start // self.work.width
        levels = self.work.levels[part]
        ones = own.sum(1, keepdim=True)  # what a bias of 1 does
        turned = own @ levels
        a, b, c = (levels * turned).sum(0), (levels * ones).sum(0), ones.sum()
        slope, shift = (levels * gradient).sum(0), gradient.sum(0)
        spread = a * c - b * b
        fits = spread > 1e-6 * a * c
        spread = torch.where(fits, spread, torch.ones_like(spread))
        scales, biases = self.work.scales[group], self.biases[group]
        by_scale = torch.where(fits, (b * shift - c * slope) / spread, torch.zeros_like(a))
        by_bias = torch.where(fits, (b * slope - a * shift) / spread, -shift / c)
        new_scales, new_biases = self._stored(scales + by_scale), self._stored(biases + by_bias)
        ds, db = new_scales - scales, new_biases - biases
        change = 2 * (ds * slope + db * shift) + ds * ds * a + 2 * ds * db * b + db * db * c
        better = (change < 0) & (new_scales.abs() > _LEAST)  # rounding may lose what little there was to win
        ds, db = torch.where(better, ds, torch.zeros_like(ds)), torch.where(better, db, torch.zeros_like(db))
        self.work.scales[group], self.biases[group] = scales + ds, biases + db
        self.work.zeros[group] = -self.biases[group] / self.work.scales[group]
        return gradient + turned * ds + ones * db

    def _stored(self, values: Tensor) -> Tensor:
        import torch

        if self.dtype == "F32":
            return values
        kind = torch.float16 if self.dtype == "F16" else torch.bfloat16
        return values.to(kind).float()
