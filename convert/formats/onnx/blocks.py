"""How the weights of a 4-bit graph become numbers: what is asked for, and who makes them.

    rounded   ONNX Runtime's own scales, nearest levels: the bytes of its quantizer
    Search    scales by the error that they leave, weighed by what is known of each column's inputs
    Solved    GPTQ's integers where a calibration pass made some, searched ones where it did not

A weight is read where it lies, some rows at a time: of a checkpoint in the layout (out, in) they are neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quantize import floats
from quantize.grids import Quantized
from quantize.nbits_layout import Encoded, Layout

if TYPE_CHECKING:
    from convert.formats.onnx.linears import Linear

Encode = Callable[["Linear", Layout], tuple[np.ndarray, ...]]
"""(values, scales[, zeros]) of a layer's weight."""

CHUNK = 1 << 22  # weights widened at a time: 16 MB
FINE_BLOCK = 128
"""Weights of 8 bits that share a scale: it costs them a 32nd of a bit more error, and saves 3/4 of a bit."""


@dataclass(frozen=True)
class Int4:
    """What is asked of 4-bit graphs."""

    block_size: int = 32
    symmetric: bool = True
    method: str = "search"  # or plain
    embed: int = 8  # bits of the table that tokens are looked up in
    lm_head: int = 8
    edge_down: int = 4  # of the first and the last down_proj
    v_proj: int = 8

    def layout(self, bits: int, columns: int) -> Layout:
        """Of a weight of so many bits."""
        if bits == 4 or self.method == "plain":
            return Layout(bits, self.block_size, self.symmetric)
        size = FINE_BLOCK
        while size > self.block_size and columns % size:  # a block that is filled up costs more than it saves
            size //= 2
        return Layout(bits, max(size, self.block_size), True)


def rows_of(linear: Linear) -> Iterator[tuple[slice, np.ndarray]]:
    """Slices of the outputs, and float32 (rows, inputs) of each."""
    rows, step = linear.matrix().T, max(1, CHUNK // linear.inputs)
    for start in range(0, linear.outputs, step):
        part = slice(start, min(start + step, linear.outputs))
        yield part, floats.to_float32(as_bits(np.ascontiguousarray(rows[part])))


def as_bits(values: np.ndarray) -> np.ndarray:
    """bfloat16 as quantize takes it: its bits."""
    return values.view(np.uint16) if values.dtype.name == "bfloat16" else values


def in_pieces(linear: Linear, layout: Layout, encode: Callable[[np.ndarray], Encoded]) -> tuple[np.ndarray, ...]:
    """A weight that is encoded some rows at a time."""
    shapes = layout.shapes(linear.outputs, linear.inputs)
    made = tuple(np.empty(shape, kind) for shape, kind in zip(shapes, (np.uint8, np.float32, np.uint8), strict=False))
    for part, values in rows_of(linear):
        one = encode(values)
        for whole, piece in zip(made, (one.values, one.scales, one.zeros), strict=False):
            whole[part] = piece
    return made


def rounded(linear: Linear, layout: Layout) -> tuple[np.ndarray, ...]:
    """As ONNX Runtime's quantizer makes it."""
    from quantize import nbits

    return in_pieces(linear, layout, lambda values: nbits.plain(values, layout))


@dataclass
class Search:
    """Scales of the least error; `importance` by parameter, of its columns. `counts`: how many were made how."""

    importance: Mapping[str, np.ndarray] = field(default_factory=dict)
    threads: int = 1
    counts: dict[str, int] = field(default_factory=dict)

    def __call__(self, linear: Linear, layout: Layout) -> tuple[np.ndarray, ...]:
        from quantize import nbits_search

        costs = self.importance.get(linear.name)
        self.count("searched" if costs is None else "searched with importance")
        return in_pieces(linear, layout, lambda values: nbits_search.searched(values, layout, costs, self.threads))

    def count(self, word: str) -> None:
        """One more."""
        self.counts[word] = self.counts.get(word, 0) + 1


@dataclass
class Solved:
    """GPTQ's integers of the parameters that `find` knows; others by `search`."""

    find: Callable[[str], Quantized | None]
    search: Search

    def __call__(self, linear: Linear, layout: Layout) -> tuple[np.ndarray, ...]:
        from quantize import nbits

        found = self.find(linear.name) if layout.bits == 4 else None
        if found is None:
            return self.search(linear, layout)
        self.search.count("by GPTQ")
        made = nbits.packed(found.integers, layout, found.scales.astype(np.float32), found.zeros)
        parts = made.values, made.scales
        return parts if made.zeros is None else (*parts, made.zeros)
