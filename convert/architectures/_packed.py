"""Queries, keys and values that a checkpoint keeps in one matrix and llama.cpp in three."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from convert.architectures._decoder import Decoder
from convert.architectures._graph_spec import OutputTensor, SourceTensor, View

Cut = Callable[[np.ndarray, int], np.ndarray]
"""From the matrix and 0, 1 or 2 to the rows of queries, keys or values: (…, head_dim, hidden), a view."""


def qkv_apart(decoder: Decoder, source: str, cut: Cut) -> Iterator[SourceTensor]:
    """The matrix called `source` of every layer, whose graph turns neighbours: halves of heads are dealt out in turn.

    See `pairs_together` of llama.py; values are not turned.
    """
    size = decoder.sizes
    rows = {"q": size["q"], "k": size["kv"], "v": size["kv"]}

    def part(number: int) -> View:
        def view(weight: np.ndarray) -> np.ndarray:
            heads = cut(weight, number)
            return heads if number == 2 else _dealt(heads)

        return view

    for i in range(decoder.layers):
        outputs = tuple(
            OutputTensor(f"blk.{i}.attn_{letter}.weight", (count, decoder.hidden), part(number))
            for number, (letter, count) in enumerate(rows.items())
        )
        yield SourceTensor(source.replace("{i}", str(i)), (sum(rows.values()), decoder.hidden), outputs)


def _dealt(heads: np.ndarray) -> np.ndarray:
    *more, rows, width = heads.shape
    return heads.reshape(*more, 2, rows // 2, width).swapaxes(-3, -2)
