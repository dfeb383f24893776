"""From checkpoint tensors to the tensors of a GGUF file: in which order, of which shape, read how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from convert.architectures._part import Part, Target
from convert.checkpoint import LazyTensor
from convert.gguf.ledger import Entry

CHUNK_VALUES = 2 << 20  # values converted at a time: 8 MiB as float32


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a GGUF file. Either read from `source` through `target.view`, or the constant `values`."""

    target: Target
    source: LazyTensor | None = None
    values: np.ndarray | None = None

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.target.shape

    @property
    def row_values(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    def chunks(self) -> Iterator[np.ndarray]:
        """The values as arrays (rows, row_values) in the source's own storage, a few MiB at a time, in order."""
        if self.values is not None:
            values = self.values
        else:
            assert self.source is not None
            values = self.source.load()
            if self.target.view is not None:
                values = self.target.view(values)
        if values.flags.c_contiguous:
            values = values.reshape(self.rows, self.row_values)
        # a view that jumps about in memory is copied only chunk by chunk, along its first axis
        step = max(1, CHUNK_VALUES * len(values) // max(1, values.size))
        for start in range(0, len(values), step):
            yield values[start : start + step].reshape(-1, self.row_values)


def part_tensors(part: Part, entries: Iterable[Entry]) -> tuple[OutputTensor, ...]:
    """The file's tensors: generated ones, then in the order of the checkpoint, which is read once through."""
    generated = (OutputTensor(Target(g.name, g.values.shape), values=g.values) for g in part.generated)
    from_checkpoint = (OutputTensor(target, e.source) for e in entries for target in e.wanted.targets)
    return (*generated, *from_checkpoint)


def forecast_tensors(part: Part) -> tuple[OutputTensor, ...]:
    """The tensors a config promises, when the checkpoint itself is not there yet: names and shapes, nothing to read."""
    generated = (OutputTensor(Target(g.name, g.values.shape), values=g.values) for g in part.generated)
    return (*generated, *(OutputTensor(target) for wanted in part.wanted for target in wanted.targets))
