"""What a weight file holds, as its header says: what every format's `inspect` gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from convert.json_types import JsonDict
from convert.source.untrusted import shown

SHOWN_ITEMS = 4  # of an array
SHOWN_TEXT = 100  # characters of a string


@dataclass(frozen=True)
class TensorSummary:
    """One tensor; `shape` with rows last but one, as in the checkpoint (GGUF writes it reversed)."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class TypeSummary:
    """All tensors of one type."""

    type: str
    tensors: int
    parameters: int
    nbytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class Facts:
    """A weight file. `types` are the largest first, `tensors` in the order of the header."""

    path: str
    format: str
    size: int
    metadata: Mapping[str, object]  # numbers, texts, and tuples of them
    tensors: tuple[TensorSummary, ...]
    types: tuple[TypeSummary, ...]
    parameters: int
    tensor_bytes: int
    bits_per_weight: float

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The facts as text; with `verbose` every tensor. Nothing in it can move a terminal's cursor."""
        yield f"{self.path}: {self.format}, {self.size:,} bytes"
        bits = f", {self.bits_per_weight:.2f} bits a weight" if self.tensors else ""
        yield f"{len(self.tensors)} tensors, {self.parameters:,} parameters{bits}"
        width = max((len(kind.type) for kind in self.types), default=0)
        for kind in self.types:
            counted = f"{kind.tensors:5} tensors  {kind.parameters:>15,} parameters  {kind.nbytes:>15,} bytes"
            yield f"  {kind.type:{width}}  {counted}  {kind.bits_per_weight:7.4f} bits a weight"
        for key, value in self.metadata.items():
            yield f"{plain(key)} = {_value(value)}"
        if verbose:
            for tensor in self.tensors:
                yield f"{plain(tensor.name)}  {tensor.type}  {list(tensor.shape)}  {tensor.nbytes:,} bytes"


@dataclass(frozen=True)
class TensorError:
    """The difference between a tensor of a file and its source; sums are over all values."""

    name: str
    type: str
    values: int  # that were compared
    squared_error: float  # sum
    squared_source: float  # sum
    largest: float  # absolute difference

    @property
    def rmse(self) -> float:
        return math.sqrt(self.squared_error / max(1, self.values))

    @property
    def relative(self) -> float:
        """RMSE over the source's own root mean square; 0 where both are nothing but zeros."""
        if not self.squared_source:
            return math.inf if self.squared_error else 0.0
        return math.sqrt(self.squared_error / self.squared_source)

    def to_json(self) -> JsonDict:
        words = {"name": self.name, "type": self.type, "values": self.values}
        return words | {"rmse": self.rmse, "relative_rmse": self.relative, "largest": self.largest}


@dataclass(frozen=True)
class TensorPair:
    """A tensor of a file beside its source. `pieces(n)` gives every n-th piece of both, float32 (rows, columns)."""

    name: str
    type: str
    shape: tuple[int, ...]
    pieces: Callable[[int], Iterator[tuple[np.ndarray, np.ndarray]]]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Hyperparameter:
    """A number of the model that a file states: by the source, and by the file (None where it states none)."""

    name: str
    wanted: object
    got: object


def facts(
    path: Path, form: str, size: int, metadata: Mapping[str, object], tensors: tuple[TensorSummary, ...]
) -> Facts:
    """The facts of a file of format `form` with these tensors."""
    parameters = sum(prod(t.shape) for t in tensors)
    total = sum(t.nbytes for t in tensors)
    return Facts(
        str(path),
        form,
        size,
        metadata,
        tensors,
        type_summaries(tensors),
        parameters,
        total,
        8 * total / parameters if parameters else 0.0,
    )


def type_summaries(tensors: Iterable[TensorSummary]) -> tuple[TypeSummary, ...]:
    """The tensors counted by type, the type with most bytes first."""
    groups: dict[str, list[TensorSummary]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.type, []).append(tensor)
    kinds = (_type_summary(kind, group) for kind, group in groups.items())
    return tuple(sorted(kinds, key=lambda kind: (-kind.nbytes, kind.type)))


def _type_summary(kind: str, tensors: Sequence[TensorSummary]) -> TypeSummary:
    parameters = sum(prod(t.shape) for t in tensors)
    total = sum(t.nbytes for t in tensors)
    return TypeSummary(kind, len(tensors), parameters, total, 8 * total / parameters if parameters else 0.0)


def plain(name: str) -> str:
    """A name without quotes where it is harmless, escaped where it is not."""
    return name if name.isprintable() and len(name) <= SHOWN_TEXT else shown(name, SHOWN_TEXT)


def _value(value: object) -> str:
    if isinstance(value, str):
        return shown(value, SHOWN_TEXT)
    if isinstance(value, tuple):
        items = ", ".join(map(_value, value[:SHOWN_ITEMS]))
        return f"[{items}{', …' if len(value) > SHOWN_ITEMS else ''}] ({len(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)
