"""A decoder layer, group by group: what the engine that runs the model does between two calls of `quantize_group`.

Weights that are given the same inputs are a group: q, k, v; o; gate, up; down (`PLAN`). For each layer, in the order
of the layers, with the hidden states that the quantized layers before it have made of all windows:

1. The layer runs over them as far as the group's inputs x, with every group before it in this layer already replaced,
   and H = x^T x / tokens is summed in float32. Half of it is enough: products of the upper triangle, then `mirrored`.
2. `quantize_group` with the group's weights, H, and what stands in front of the group where that can take factors:
   `Norm` for a norm, `Source` for a matrix whose outputs are the inputs (v for o, up for down).
3. Each weight is replaced by `Group.effective`: what the quantized one amounts to behind a norm, or a matrix, that has
   no factors. So nothing else in the model has to change while it runs, and the next group's H, whose inputs are not
   scaled, is the right one for 2.
4. What goes to the file: `Group.made`; `Group.multiplier` as the norm's weight; and where the group had a `Source`,
   `made[source].divided(Group.source_factors)`, which changes the scales of v or up, made before, and no integer.
5. With all groups replaced the layer runs to its end: hidden states for the next layer.

Not sequential within the layer: 1 is one run of the layer as it was, for the H of all groups; 2 to 5 stay as they are.
An expert is a layer's gate, up and down with an H of its own tokens; the norm in front is shared by all experts and by
the router, so it takes no factors: `front=None`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quantize import awq
from quantize.gptq import NORMAL, Effort, Inputs, quantize
from quantize.grids import Grid, Quantized

PLAN: tuple[tuple[tuple[str, ...], str], ...] = (
    (("q", "k", "v"), "attention norm"),
    (("o",), "v"),
    (("gate", "up"), "mlp norm"),
    (("down",), "up"),
)
"""The groups of a layer of Llama's shape in the order of their inputs, each with what can take its factors."""


@dataclass(frozen=True)
class Norm:
    """In front of a group: `multiplier` (columns,) is what it multiplies with (1 + weight where a family has that).

    `dtype` is that of its weight in the file: float32, float16 or bfloat16.
    """

    multiplier: np.ndarray
    dtype: str


@dataclass(frozen=True)
class Source:
    """In front of a group: a matrix. `rows` (columns,): the row of it that feeds each column, one or several columns.

    A family whose v and up have a bias divides it as well.
    """

    rows: np.ndarray

    @classmethod
    def one_to_one(cls, columns: int) -> Source:
        """Every column has a row of its own: up for down, v for o where there are as many heads of both."""
        return cls(np.arange(columns))

    @classmethod
    def heads(cls, query_heads: int, value_heads: int, size: int) -> Source:
        """v for o where neighbouring query heads share a value head: heads of `size` columns."""
        shared = np.arange(query_heads)[:, None] // (query_heads // value_heads) * size
        return cls((shared + np.arange(size)).reshape(-1))


@dataclass(frozen=True)
class Group:
    """What became of the weights of a group; without a front all factors are 1.

    `made` by weight's name; `factors` (columns,): their columns were multiplied by; `multiplier`: the norm's from now
    on; `source_factors` (rows,): those of the matrix in front are to be divided by.
    """

    made: Mapping[str, Quantized]
    factors: np.ndarray
    multiplier: np.ndarray | None = None
    source_factors: np.ndarray | None = None

    def effective(self, name: str) -> np.ndarray:
        """float32 (rows, columns): the weight it amounts to where nothing in front of it is changed."""
        return np.asarray(self.made[name].dequantized() / self.factors)


def quantize_group(
    weights: Mapping[str, np.ndarray],
    gram: np.ndarray,
    grid: Grid,
    effort: Effort = NORMAL,
    front: Norm | Source | None = None,
) -> Group:
    """The weights of a group, (rows, columns) each, on `grid`; with a `front`, by AWQ's factors.

    `effort`: gptq.NORMAL, gptq.HIGH, or gptq.PLAIN for AWQ without GPTQ's integers. The weights are quantized stacked:
    rows do not know of each other. `gram` (columns, columns) float32 is used up: what is added to its diagonal stays
    in it, so that there need be no second one.
    """
    inputs = Inputs(gram, own=True)
    columns = inputs.columns
    factors, multiplier, source_factors = np.ones(columns, np.float32), None, None
    if front is not None:
        rows = front.rows if isinstance(front, Source) else None
        factors = awq.find_factors(list(weights.values()), inputs, grid, effort, rows)
    if isinstance(front, Norm):
        factors, multiplier = awq.fold(factors, front.multiplier, front.dtype)
    elif front is not None:
        source_factors = np.ones(int(front.rows.max()) + 1, np.float32)
        source_factors[front.rows] = factors
    stacked = np.concatenate([np.asarray(weight, np.float32) for weight in weights.values()])
    together = quantize(stacked, inputs, grid, effort, factors)
    made, at = {}, 0
    for name, weight in weights.items():
        made[name] = together.rows(at, at + len(weight))
        at += len(weight)
    return Group(made, factors, multiplier, source_factors)


def mirrored(upper: np.ndarray) -> np.ndarray:
    """A symmetric matrix of which only the upper triangle was summed; what stands below the diagonal is not read."""
    return np.asarray(np.triu(upper) + np.triu(upper, 1).T)
