"""What an architecture says about one GGUF file: which tensors it wants, what becomes of them, what else it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert.gguf.fields import Field

View = Callable[[np.ndarray], np.ndarray]
"""From a checkpoint tensor to the values of one GGUF tensor, in order, without copying: reshapes, slices, strides."""

Change = Callable[[np.ndarray], np.ndarray]
"""Other numbers in the same places: float32 in, float32 out, given a few rows at a time."""


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
    change: Change | None = None  # after the view; the tensor counts as float32 then


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
    """Checkpoint tensors that are in no GGUF file on purpose, by how their names end and start."""

    suffix: str
    reason: str
    same_as: str = ""  # left out only when it holds the same values as this tensor
    prefix: str = ""

    def covers(self, name: str) -> bool:
        """Whether the tensor called `name` is one of them."""
        return name.startswith(self.prefix) and name.endswith(self.suffix)


@dataclass(frozen=True)
class Part:
    """Everything a GGUF file gets from the architecture. `notes` are differences from the source a user should know."""

    architecture: str  # general.architecture
    fields: tuple[Field, ...]
    wanted: tuple[Wanted, ...]
    generated: tuple[Generated, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """What is done to a tensor on its way into the file: rearranged by `view`, then changed in its numbers."""

    view: View | None = None
    change: Change | None = None
    turned: bool = False  # the view makes rows of columns: the last two axes change places


def _plus_one(values: np.ndarray) -> np.ndarray:
    return values + np.float32(1)


TURNED = Way(lambda values: values.swapaxes(-1, -2), turned=True)
"""For weights stored (in, out), as transformers' Conv1D has them; GGUF wants (out, in)."""

PLUS_ONE = Way(change=_plus_one)
"""For norms that multiply by 1 + weight; llama.cpp multiplies by what is in the file."""

Row = tuple[str, str | tuple[str, ...], tuple[str, ...]] | tuple[str, str | tuple[str, ...], tuple[str, ...], str]
"""A line of a family's table: checkpoint name, GGUF name, shape of the checkpoint's tensor by names of dimensions, and
for tensors that some family rearranges or changes the word for the way it does.

- `{i}` in the names is the layer, `{e}` in the first one the expert: those of a layer become one tensor.
- "q+kv+kv" is a dimension where three were put together. With as many GGUF names it is cut up again, else it stays.
"""


def expand(
    table: Iterable[Row],
    sizes: Mapping[str, int],
    ways: Mapping[str, Way] | None = None,
    layers: int | Sequence[int] = 1,
) -> tuple[Wanted, ...]:
    """The table's tensors with real names and shapes, layer after layer where names have an `{i}`.

    `layers` is their number, or those of them that have such tensors.
    """
    rows = list(table)
    numbers = range(layers) if isinstance(layers, int) else layers
    once = [row for row in rows if "{i}" not in row[0]]
    layered = [(row, layer) for layer in numbers for row in rows if "{i}" in row[0]]
    return tuple(
        w for row, layer in [*((r, 0) for r in once), *layered] for w in _wanted(row, sizes, ways or {}, layer)
    )


def _wanted(row: Row, sizes: Mapping[str, int], ways: Mapping[str, Way], layer: int) -> Iterator[Wanted]:
    source = row[0].replace("{i}", str(layer))
    names = [name.replace("{i}", str(layer)) for name in ((row[1],) if isinstance(row[1], str) else row[1])]
    way = ways.get(row[3], Way()) if len(row) > 3 else Way()
    if way.turned and len(row[2]) < 2:
        way = Way(change=way.change)  # a bias beside a weight that is turned
    summands = [[sizes[word] for word in dimension.split("+")] for dimension in row[2]]
    shape = tuple(map(sum, summands))
    targets = tuple(_targets(names, summands, way))
    if "{e}" not in source:
        yield Wanted(source, shape, targets)
        return
    experts = sizes["experts"]
    for place in range(experts):
        stacked = (Target(t.name, (experts, *t.shape), t.view, place, t.change) for t in targets)
        yield Wanted(source.replace("{e}", str(place)), shape, tuple(stacked))


def _targets(names: Sequence[str], summands: Sequence[Sequence[int]], way: Way) -> Iterator[Target]:
    """The GGUF tensors of a checkpoint tensor whose axes are as long as the sums of `summands`."""
    shape = tuple(map(sum, summands))
    if len(names) == 1:
        yield Target(names[0], _turned(shape, way), way.view, change=way.change)
        return
    axis = next(i for i, lengths in enumerate(summands) if len(lengths) == len(names))
    start = 0
    for name, length in zip(names, summands[axis], strict=True):
        cut = (*(slice(None) for _ in range(axis)), slice(start, start + length))
        part = (*shape[:axis], length, *shape[axis + 1 :])
        yield Target(name, _turned(part, way), _cut(cut, way.view), change=way.change)
        start += length


def _turned(shape: tuple[int, ...], way: Way) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2]) if way.turned else shape


def _cut(place: tuple[slice, ...], view: View | None) -> View:
    return lambda values: values[place] if view is None else view(values[place])
