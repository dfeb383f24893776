"""What an architecture says about one GGUF file: which tensors it wants, what becomes of them, what else it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from convert.gguf.fields import Field

View = Callable[[np.ndarray], np.ndarray]
"""From a checkpoint tensor to the values of one GGUF tensor, in order, without copying: reshapes, slices, strides."""


@dataclass(frozen=True)
class Target:
    """One tensor of a GGUF file. `shape` is in numpy's order: rows last but one, GGUF writes it reversed.

    Experts are tensors of their own in a checkpoint and one in a GGUF file: each has the target `shape[0]` of them
    make together, and its `place` in it.
    """

    name: str
    shape: tuple[int, ...]
    view: View | None = None  # None: the values as they are
    place: int | None = None  # along the first axis; None: the checkpoint tensor is all of it


@dataclass(frozen=True)
class Wanted:
    """One checkpoint tensor, under the family's own name for it, and the GGUF tensors it becomes."""

    source: str
    shape: tuple[int, ...]
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Generated:
    """A float32 GGUF tensor that is computed from the config, in no checkpoint."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class LeftOut:
    """Checkpoint tensors that are in no GGUF file on purpose. `suffix` is how their names end."""

    suffix: str
    reason: str
    same_as: str = ""  # left out only when it holds the same values as this tensor


@dataclass(frozen=True)
class Part:
    """Everything a GGUF file gets from the architecture. `notes` are differences from the source a user should know."""

    architecture: str  # general.architecture
    fields: tuple[Field, ...]
    wanted: tuple[Wanted, ...]
    generated: tuple[Generated, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


Row = tuple[str, str, tuple[str, ...]] | tuple[str, str, tuple[str, ...], str]
"""A line of a family's table: checkpoint name, GGUF name, shape by names of dimensions, and for tensors that some
family rearranges the name of the view that does it. `{i}` in a name is the layer."""


def expand(
    table: Iterable[Row], sizes: Mapping[str, int], views: Mapping[str, View] | None = None, layers: int = 1
) -> tuple[Wanted, ...]:
    """The table's tensors with real names and shapes, layer after layer where names have an `{i}`."""
    views = views or {}
    rows = list(table)
    once = [_wanted(row, sizes, views) for row in rows if "{i}" not in row[0]]
    layered = [row for row in rows if "{i}" in row[0]]
    return (*once, *(_wanted(row, sizes, views, layer) for layer in range(layers) for row in layered))


def _wanted(row: Row, sizes: Mapping[str, int], views: Mapping[str, View], layer: int = 0) -> Wanted:
    source, name, dimensions = (text.replace("{i}", str(layer)) if isinstance(text, str) else text for text in row[:3])
    shape = tuple(sizes[d] for d in dimensions)
    view = views.get(row[3]) if len(row) > 3 else None
    return Wanted(str(source), shape, (Target(str(name), shape, view),))
