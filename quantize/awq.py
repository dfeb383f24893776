"""AWQ: input columns that matter are made larger before they are rounded, and what feeds them smaller by as much.

A weight W whose inputs x are the outputs of a norm, or of another matrix, can be replaced by W * c with inputs x / c:
the norm's weight, or the other matrix's rows, take 1 / c. Larger columns lose less by rounding (Lin and others 2023).
Of c = size ** a, size being the root mean square of each input and a from 0 on in tenths, the one is taken that hurts
the outputs least by the Gram matrix: no model runs in the search. The same c serves GPTQ's integers, where it is worth
as much again, and a GPTQ folder can hold it as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from quantize.gptq import NORMAL, Effort, Inputs, first_levels
from quantize.grids import Grid, checked

if TYPE_CHECKING:
    from torch import Tensor, dtype

EXPONENTS = tuple(k / 10 for k in range(10))
TRIED_ROWS = 128
"""So many rows, evenly spread over the weights, stand for all of them in the search."""


def find_factors(
    weights: Sequence[np.ndarray], inputs: Inputs, grid: Grid, effort: Effort = NORMAL, source: np.ndarray | None = None
) -> np.ndarray:
    """float32 (columns,): c, by which the columns of all `weights`, which share their inputs, are to be multiplied.

    `source` (columns,) says which output of what is in front a column is fed by, where several columns have the same
    (value heads that several query heads read): they get one factor. `effort` is that of `quantize` later on.
    """
    import torch

    stacked = np.concatenate([checked(weight, "a weight") for weight in weights])
    rows = np.linspace(0, len(stacked) - 1, min(TRIED_ROWS, len(stacked))).astype(int)
    sample = torch.from_numpy(stacked[rows])
    size = inputs.diagonal.sqrt()
    if source is not None:
        size = _shared(size, torch.from_numpy(np.asarray(source, np.int64)))
    best, found = float("inf"), torch.ones_like(size)
    with torch.inference_mode():
        for exponent in EXPONENTS:
            factors = _powers(size, exponent)
            loss = _loss(sample, factors, inputs, grid, effort)
            if loss < best:
                best, found = loss, factors
    return np.asarray(found.numpy())


def fold(factors: np.ndarray, multiplier: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(factors, multiplier / factors), both float32, the second made of numbers that `kind` has.

    `multiplier` (columns,) is what the norm multiplies with; `kind` is float32, float16 or bfloat16. The factors are
    changed by as much as the rounding of the quotient, so that the product still is the multiplier: nothing is lost by
    a norm of few bits. A multiplier of 0 keeps the factor 1.
    """
    import torch

    given = torch.from_numpy(np.asarray(multiplier, np.float32))
    folded = (given / torch.from_numpy(factors)).to(_types()[kind]).float()
    usable = (folded != 0) & torch.isfinite(folded)
    exact = torch.where(usable, given / torch.where(usable, folded, 1.0), 1.0)
    return exact.numpy(), torch.where(usable, folded, given).numpy()


def _types() -> dict[str, dtype]:
    import torch

    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def _powers(size: Tensor, exponent: float) -> Tensor:
    """size ** exponent, its extremes as far above 1 as below; inputs that are never seen count as the smallest seen."""
    seen = size[size > 0]
    floor = max(float(seen.min()), float(seen.max()) * 1e-4) if len(seen) else 1.0
    factors = size.clamp(min=floor) ** exponent
    return factors / (factors.max() * factors.min()).sqrt()


def _shared(size: Tensor, source: Tensor) -> Tensor:
    """The root mean square over the columns of one source, for each column."""
    import torch

    total, count = torch.zeros(int(source.max()) + 1), torch.zeros(int(source.max()) + 1)
    total.index_add_(0, source, size.square())
    count.index_add_(0, source, torch.ones_like(size))
    return (total / count.clamp(min=1)).sqrt()[source]


def _loss(weight: Tensor, factors: Tensor, inputs: Inputs, grid: Grid, effort: Effort) -> float:
    """Of the sample's integers, made in the same way but without turns of descent."""
    work = first_levels(weight.T.contiguous(), factors, inputs, grid, effort)
    return inputs.loss(work.errors())
