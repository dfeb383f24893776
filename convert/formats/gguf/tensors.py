"""From checkpoint tensors to the tensors of a GGUF file: in which order, of which shape, read how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from convert.architectures._graph_spec import GraphSpec, OutputTensor, Packed, View
from convert.formats.gguf.ledger import Entry
from convert.source.checkpoint import STORAGE, LazyTensor
from quantize.blocks import TYPES
from quantize.floats import to_float32

CHUNK_VALUES = 1 << 20  # values a thread is given at a time: 4 MiB as float32


@dataclass(frozen=True)
class StreamedTensor:
    """One tensor of a GGUF file: read from `source` through `output.view`, or the constant `values`.

    Where it is several checkpoint tensors on top of each other, those are `parts`, and `source` is what they make.
    Where their bytes are packed into its blocks, each of the `parts` has its own of the `views`.
    """

    output: OutputTensor
    source: LazyTensor | None = None
    values: np.ndarray | None = None
    parts: tuple[LazyTensor, ...] = ()
    views: tuple[View | None, ...] = ()

    @property
    def name(self) -> str:
        return self.output.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self.output.shape

    @property
    def storage(self) -> str:
        """What `chunks` gives, in safetensors' words (bfloat16 as its 16 bits), or the type of its blocks."""
        if self.output.packed:
            return self.output.packed.type
        changed = self.output.change is not None or self.output.row_factors is not None
        return "F32" if self.source is None or changed else self.source.dtype

    @property
    def source_bytes(self) -> int:
        """The bytes of all chunks that are read from the checkpoint."""
        if self.source is None:
            return 0
        kind = TYPES[self.storage]
        return self.rows * kind.row_bytes(self.row_values)

    @property
    def row_values(self) -> int:
        return self.shape[-1]

    @property
    def rows(self) -> int:
        return prod(self.shape[:-1])

    def chunks(self) -> Iterator[np.ndarray]:
        """The values as arrays (rows, row_values) of `storage`, a few MiB at a time, in order.

        No array spans two of `parts`. Blocks come as uint8 (rows, row bytes), those of one slice at a time.
        """
        if self.values is not None:
            yield from self._cut(self.values)
            return
        if self.output.packed:
            yield from self._blocks(self.output.packed)
            return
        assert self.source is not None
        for part in self.parts or (self.source,):
            if part.rows is not None and self._by_rows(part):
                yield from self._computed(part, part.rows)
            else:
                values = part.load()
                yield from self._cut(values if self.output.view is None else self.output.view(values))
            if self.parts:
                part.release()
        if self.output.zero_rows:
            yield from self._cut(_zeros((self.output.zero_rows, self.row_values), self.storage))

    def _by_rows(self, part: LazyTensor) -> bool:
        """Whether some of the part's first axis, seen through the view, are the same of the output's."""
        view = self.output.view
        if view is None:
            return True
        if len(part.shape) < 3:
            return False
        numbers = np.arange(part.shape[0]).reshape(-1, *(1 for _ in part.shape[1:]))
        seen = view(np.broadcast_to(numbers, part.shape))
        rows = seen.reshape(len(seen), -1) if len(seen) == len(numbers) and seen.ndim > 1 else seen[:0]
        return bool(len(rows)) and all(np.array_equal(rows[:, at], numbers.reshape(-1)) for at in (0, -1))

    def _computed(self, part: LazyTensor, rows: Callable[[int, int], np.ndarray]) -> Iterator[np.ndarray]:
        """A tensor that is computed, a few MiB at a time."""
        step = max(1, CHUNK_VALUES // max(1, prod(part.shape[1:])))
        for start in range(0, part.shape[0], step):
            values = rows(start, min(start + step, part.shape[0]))
            yield from self._cut(values if self.output.view is None else self.output.view(values))

    def _blocks(self, packed: Packed) -> Iterator[np.ndarray]:
        loaded = [part.load() for part in self.parts]
        operands = [v if view is None else view(v) for v, view in zip(loaded, self.views, strict=True)]
        for slices in zip(*operands, strict=True):
            yield packed.join(slices)

    def _cut(self, values: np.ndarray) -> Iterator[np.ndarray]:
        if values.flags.c_contiguous:
            values = values.reshape(-1, self.row_values)
        # a view that jumps about in memory is copied only chunk by chunk, along its first axis
        step = max(1, CHUNK_VALUES * len(values) // max(1, values.size))
        change, factors = self.output.change, self.output.row_factors
        for start in range(0, len(values), step):
            chunk = values[start : start + step].reshape(-1, self.row_values)
            if change is not None:  # a mapped tensor may be unaligned
                chunk = change(to_float32(np.require(chunk, requirements=("C", "A"))))
            if factors is not None:
                chunk = to_float32(np.require(chunk, requirements=("C", "A"))) * factors[start : start + step, None]
            yield chunk


def with_numbers(spec: GraphSpec, numbers: Mapping[str, LazyTensor]) -> GraphSpec:
    """The spec with the fields whose numbers are in the checkpoint; those that are not there yet count as 0."""

    def number(name: str) -> float:
        return float(to_float32(numbers[name].load().reshape(1).copy())[0]) if name in numbers else 0.0

    made = tuple(values.field([number(name) for name in values.sources]) for values in spec.stated)
    return replace(spec, fields=(*spec.fields, *made))


def spec_tensors(spec: GraphSpec, entries: Iterable[Entry]) -> tuple[StreamedTensor, ...]:
    """The file's tensors: generated ones, then in the order of the checkpoint, which is read once through.

    What several checkpoint tensors make together comes where the last of them is.
    """
    entries = list(entries)
    return (*_generated(spec), *_in_place_of_absent(spec, entries), *_from_checkpoint(entries))


def _in_place_of_absent(spec: GraphSpec, entries: Iterable[Entry]) -> Iterator[StreamedTensor]:
    """Zeros for tensors that llama.cpp asks for, does not use, and the checkpoint is without."""
    found = {entry.tensor.source for entry in entries}
    for tensor in spec.tensors:
        if tensor.absent == "zeros" and tensor.source not in found:
            yield from (StreamedTensor(o, values=_zeros(o.shape, "F32")) for o in tensor.outputs)


def _zeros(shape: tuple[int, ...], storage: str) -> np.ndarray:
    """Zeros that take no memory."""
    return np.broadcast_to(np.zeros((), STORAGE[storage]), shape)


def _from_checkpoint(entries: Iterable[Entry]) -> Iterator[StreamedTensor]:
    waiting: dict[str, dict[int, tuple[LazyTensor, OutputTensor]]] = {}
    for entry in entries:
        for output in entry.tensor.outputs:
            if output.place is None:
                yield StreamedTensor(output, entry.source)
                continue
            found = waiting.setdefault(output.name, {})
            found[output.place] = entry.source, output
            if len(found) == output.places:
                parts, outputs = zip(*(found[place] for place in sorted(found)), strict=True)
                views = tuple(t.view for t in outputs) if output.packed else ()
                yield StreamedTensor(replace(output, place=None), _stacked(parts), parts=parts, views=views)


def _stacked(parts: Sequence[LazyTensor]) -> LazyTensor:
    """The tensors as one with an axis more in front; to load it is to copy them all."""

    def release() -> None:
        for part in parts:
            part.release()

    first, last = parts[0], parts[-1]
    return LazyTensor(
        f"{first.name} to {last.name}" if len(parts) > 1 else first.name,
        (len(parts), *first.shape),
        first.dtype,
        lambda: np.stack([part.load() for part in parts]),
        first.file,
        release,
    )


def forecast_tensors(spec: GraphSpec) -> tuple[StreamedTensor, ...]:
    """The tensors a config promises, when the checkpoint itself is not there yet: names and shapes, nothing to read."""
    outputs = {output.name: replace(output, place=None) for tensor in spec.tensors for output in tensor.outputs}
    return (*_generated(spec), *map(StreamedTensor, outputs.values()))


def expert_parameters(tensors: Iterable[StreamedTensor]) -> tuple[int, int]:
    """How many experts a layer has (0: none), and the weights of a model with one of them in each layer."""
    tensors = list(tensors)
    stacks = [t for t in tensors if "_exps." in t.name and len(t.shape) > 2]
    if not stacks:
        return 0, 0
    idle = sum(prod(t.shape) // t.shape[0] * (t.shape[0] - 1) for t in stacks)
    return sum(t.shape[0] for t in stacks) // len(stacks), sum(prod(t.shape) for t in tensors) - idle


def _generated(spec: GraphSpec) -> Iterator[StreamedTensor]:
    return (StreamedTensor(OutputTensor(g.name, g.values.shape), values=g.values) for g in spec.generated)
