"""What an architecture says about one GGUF file: its tensors, what becomes of each, what else it holds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from convert.architectures._roles import TensorRole, role_of
from convert.gguf_field import Field

View = Callable[[np.ndarray], np.ndarray]
"""From a checkpoint tensor to the values of one GGUF tensor, in order, without copying: reshapes, slices, strides."""

Change = Callable[[np.ndarray], np.ndarray]
"""Other numbers in the same places: float32 in, float32 out, given a few rows at a time."""


@dataclass(frozen=True)
class Packed:
    """A GGUF tensor whose blocks the checkpoint has already, its bytes in several tensors; they are only moved.

    `join` makes uint8 (rows, row bytes) of a slice along the first axis of each of the `operands` tensors.
    """

    type: str  # of the blocks
    operands: int
    join: Callable[[Sequence[np.ndarray]], np.ndarray]
    block: int  # values in one; the operands' third axis counts blocks


@dataclass(frozen=True)
class OutputTensor:
    """One tensor of a GGUF file. `shape` is in numpy's order: rows last but one, GGUF writes it reversed.

    Experts are tensors of their own in a checkpoint and one in a GGUF file: each has the output that `shape[0]` of
    them make together, and its `place` in it. So have the operands of a packed tensor.
    """

    name: str
    shape: tuple[int, ...]
    view: View | None = None  # None: the values as they are
    place: int | None = None  # along the first axis; None: the checkpoint tensor is all of it
    change: Change | None = None  # after the view; the tensor counts as float32 then
    packed: Packed | None = None
    type: str = ""  # that it has in every file; empty: what the file's rules say
    transposed: bool = False  # stored (in, out) in the checkpoint, as no torch.nn.Linear is
    zero_rows: int = 0  # of `shape`, behind those that the checkpoint has
    row_factors: np.ndarray | None = None  # float32, what each row is multiplied by, after the change
    skipped: int = 0  # rows at the checkpoint tensor's beginning that are not in the file

    @property
    def places(self) -> int:
        """How many checkpoint tensors make it, where they have a place."""
        return self.packed.operands if self.packed else self.shape[0]


@dataclass(frozen=True)
class SourceTensor:
    """One checkpoint tensor, under the family's own name for it, and the GGUF tensors it becomes."""

    source: str
    shape: tuple[int, ...]
    outputs: tuple[OutputTensor, ...]
    stated_role: TensorRole | None = None  # where the GGUF names do not tell
    absent: str = ""  # what is made where the checkpoint has none: "nothing" or "zeros"; empty: it must have one
    borrowed: bool = False  # another file has all of it, this one takes a part: an image's last token, say

    @property
    def role(self) -> TensorRole:
        """What it is for."""
        return self.stated_role or role_of(output.name for output in self.outputs)


@dataclass(frozen=True)
class Generated:
    """A float32 GGUF tensor that is computed from the config, in no checkpoint."""

    name: str
    values: np.ndarray


@dataclass(frozen=True)
class StatedValues:
    """A metadata field whose numbers are checkpoint tensors of one value each; they are in no GGUF tensor."""

    key: str
    sources: tuple[str, ...]
    single: bool = False  # the one number; else an array of them

    def field(self, values: Sequence[float]) -> Field:
        """The field of these numbers."""
        return Field.float32(self.key, values[0]) if self.single else Field.float32s(self.key, values)


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
class GraphSpec:
    """Everything a GGUF file gets from the architecture. `notes` are differences from the source a user should know."""

    architecture: str  # general.architecture
    fields: tuple[Field, ...]
    tensors: tuple[SourceTensor, ...]
    generated: tuple[Generated, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    stated: tuple[StatedValues, ...] = ()


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transform:
    """What is done to a tensor on its way into the file: rearranged by `view`, then changed in its numbers."""

    view: View | None = None
    change: Change | None = None
    transpose: bool = False  # the view makes rows of columns: the last two axes change places
    packed: Packed | None = None
    operand: int | None = None  # of the packed tensor
    type: str = ""  # of the tensor in every file; empty: what the file's rules say
    zero_rows: int = 0  # that the GGUF tensor has behind the checkpoint's
    row_factors: np.ndarray | None = None  # float32, what each row is multiplied by, after the change
    resized: Callable[[tuple[int, ...]], tuple[int, ...]] | None = None  # the view's shape, where its axes are others
    skip: int = 0  # rows at the beginning that llama.cpp has no use for; `view` has to leave them out

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The GGUF tensor's shape, from the checkpoint tensor's."""
        if self.skip:
            return (max(0, shape[0] - self.skip), *shape[1:])
        if self.packed:
            return (*shape[:2], shape[2] * self.packed.block)
        if self.zero_rows:
            return (shape[0] + self.zero_rows, *shape[1:])
        if self.resized:
            return self.resized(shape)
        return (*shape[:-2], shape[-1], shape[-2]) if self.transpose else shape

    def output(self, name: str, shape: tuple[int, ...], view: View | None) -> OutputTensor:
        """The GGUF tensor called `name` of a checkpoint tensor, or of a slice of one, of this shape."""
        return OutputTensor(
            name,
            self.shape(shape),
            view,
            self.operand,
            self.change,
            self.packed,
            self.type,
            self.transpose,
            self.zero_rows,
            self.row_factors,
            self.skip,
        )


def _plus_one(values: np.ndarray) -> np.ndarray:
    return values + np.float32(1)


TRANSPOSED = Transform(lambda values: values.swapaxes(-1, -2), transpose=True)
"""For weights stored (in, out), as transformers' Conv1D has them; GGUF wants (out, in)."""

PLUS_ONE = Transform(change=_plus_one)
"""For norms that multiply by 1 + weight; llama.cpp multiplies by what is in the file."""


def skipping(rows: int) -> Transform:
    """The tensor without its first `rows`."""
    return Transform(lambda values: values[rows:], skip=rows) if rows else Transform()


Names = str | tuple[str, ...]
Dimensions = tuple[str, ...]
TensorRule = (
    tuple[str, Names, Dimensions] | tuple[str, Names, Dimensions, str] | tuple[str, Names, Dimensions, TensorRole]
)
"""A line of a family's table: checkpoint name, GGUF name, shape of the checkpoint's tensor by names of dimensions, and
for tensors that some family rearranges or changes the word for its `Transform`; or the role, where the GGUF name does
not tell it (see _roles.py).

- `{i}` in the names is the layer, `{e}` in the first one the expert: those of a layer become one tensor.
- "q+kv+kv" is a dimension where three were put together. With as many GGUF names it is cut up again, else it stays.
- "ffn/ffn" is one where two were dealt out in turn: with two names the first gets every other one, from the first on.
"""


def expand(
    table: Iterable[TensorRule],
    sizes: Mapping[str, int],
    transforms: Mapping[str, Transform] | None = None,
    layers: int | Sequence[int] = 1,
) -> tuple[SourceTensor, ...]:
    """The table's tensors with real names and shapes, layer after layer where names have an `{i}`.

    `layers` is their number, or those of them that have such tensors.
    """
    rows = [_Row(row, sizes, transforms or {}) for row in table]
    numbers = range(layers) if isinstance(layers, int) else layers
    once = [row for row in rows if "{i}" not in row.source]
    layered = [(row, layer) for layer in numbers for row in rows if "{i}" in row.source]
    return tuple(tensor for row, layer in [*((r, 0) for r in once), *layered] for tensor in row.tensors(layer))


class _Row:
    """A line of a table with real shapes. What is the same in all layers is worked out with the first of them."""

    def __init__(self, rule: TensorRule, sizes: Mapping[str, int], transforms: Mapping[str, Transform]) -> None:
        self._rule, self._sizes, self._transforms = rule, sizes, transforms
        self.source = rule[0]

    def tensors(self, layer: int) -> Iterator[SourceTensor]:
        """Those of a layer: one, or one an expert."""
        source = self.source.replace("{i}", str(layer))
        role = self._extra if isinstance(self._extra, TensorRole) else None
        names = [name.replace("{i}", str(layer)) for name in self._names]
        outputs = tuple(_outputs(names, self._axes, self._transform))
        if "{e}" not in source:
            yield SourceTensor(source, self._shape, outputs, role)
            return
        experts = self._sizes["experts"]
        for place in range(experts):
            stacked = (OutputTensor(o.name, (experts, *o.shape), o.view, place, o.change) for o in outputs)
            yield SourceTensor(source.replace("{e}", str(place)), self._shape, tuple(stacked), role)

    @property
    def _names(self) -> tuple[str, ...]:
        return (self._rule[1],) if isinstance(self._rule[1], str) else self._rule[1]

    @property
    def _extra(self) -> str | TensorRole:
        return self._rule[3] if len(self._rule) > 3 else ""

    @cached_property
    def _transform(self) -> Transform:
        found = self._transforms.get(self._extra, Transform()) if isinstance(self._extra, str) else Transform()
        if found.transpose and len(self._rule[2]) < 2:
            return Transform(change=found.change)  # a bias beside a weight that is transposed
        return found

    @cached_property
    def _axes(self) -> tuple[_Axis, ...]:
        def axis(text: str) -> _Axis:
            return _Axis(tuple(self._sizes[word] for word in re.split("[+/]", text)), "/" in text)

        return tuple(axis(text) for text in self._rule[2])

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return tuple(axis.length for axis in self._axes)


@dataclass(frozen=True)
class _Axis:
    """An axis of a checkpoint tensor, and what was put together along it."""

    lengths: tuple[int, ...]
    dealt: bool  # in turn, not one after the other

    @property
    def length(self) -> int:
        return sum(self.lengths)

    def cut(self, number: int) -> slice:
        """Where the piece `number` of it is."""
        if self.dealt:
            return slice(number, None, len(self.lengths))
        start = sum(self.lengths[:number])
        return slice(start, start + self.lengths[number])


def _outputs(names: Sequence[str], axes: Sequence[_Axis], transform: Transform) -> Iterator[OutputTensor]:
    """The GGUF tensors of a checkpoint tensor with these axes."""
    shape = tuple(axis.length for axis in axes)
    if len(names) == 1:
        yield transform.output(names[0], shape, transform.view)
        return
    place = next(i for i, axis in enumerate(axes) if len(axis.lengths) == len(names))
    for number, name in enumerate(names):
        cut = (*(slice(None) for _ in range(place)), axes[place].cut(number))
        piece = (*shape[:place], axes[place].lengths[number], *shape[place + 1 :])
        yield transform.output(name, piece, _cut(cut, transform.view))


def _cut(place: tuple[slice, ...], view: View | None) -> View:
    return lambda values: values[place] if view is None else view(values[place])
