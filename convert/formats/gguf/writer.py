"""A GGUF writer that streams: one pass over the source tensors, any number of files, memory of a few chunks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError, Problem
from convert.formats.gguf.constants import ALIGNMENT
from convert.formats.gguf.file_plan import FilePlan
from convert.formats.gguf.split import SplitFile
from convert.formats.gguf.tensors import StreamedTensor
from convert.needs import cores
from convert.progress import Progress
from quantize.blocks import BlockType
from quantize.encoders import ALWAYS_FITS, ENCODERS, OVERFLOW, TOO_SMALL, overflowing
from quantize.floats import largest, to_float32

if TYPE_CHECKING:
    from convert.formats.gguf.refinement import RefinedTensor, Refinement

HOT_VALUES = 1 << 17  # encoded for every file while they are in the cache: 512 KiB as float32

Importance = Callable[[str, int], np.ndarray | None]
"""From a tensor's name and number of columns to how much each column matters: (columns,), or for a tensor of experts
(experts, columns); None where nothing is known."""


@dataclass(frozen=True)
class Group:
    """Volumes that hold the same tensors, each in types of its own; a volume is one file, or the shards of one.

    The files of a volume together list all `tensors`, in their order.
    """

    volumes: tuple[tuple[FilePlan, ...], ...]
    tensors: tuple[StreamedTensor, ...]
    importance: Importance | None = None
    refinement: Refinement | None = None

    @property
    def plans(self) -> tuple[FilePlan, ...]:
        """All files."""
        return tuple(plan for volume in self.volumes for plan in volume)

    @property
    def source_bytes(self) -> int:
        """Bytes that are read from the checkpoint."""
        return sum(tensor.source_bytes for tensor in self.tensors)


def write_files(out: Path, group: Group, progress: Progress, workers: int | None = None) -> tuple[Artifact, ...]:
    """Write every planned file into the folder `out`; returns their artifacts in the order of `group.plans`.

    A chunk of rows is read and converted to float32 once and encoded for every volume while it is hot, by `workers`
    threads (one a core where None); this thread hashes and writes.
    A volume whose type cannot hold a value is not made, with a warning, and its files are not among the artifacts.
    Raises InputError where that leaves none, and for values that are no numbers; then none of the files is left.
    """
    workers = workers or cores()
    lost = _Lost(len(group.volumes))
    with ExitStack() as stack:
        files = [stack.enter_context(SplitFile(out, plans)) for plans in group.volumes]
        if group.refinement:
            stack.enter_context(group.refinement.threads())
        begin = group.refinement.begin_thread if group.refinement else None
        pool = stack.enter_context(ThreadPoolExecutor(workers, initializer=begin))
        for chunk, encoded in _in_order(pool, _chunks(group), workers):
            lost.add(chunk, encoded.large)
            for file, kind in zip(files, chunk.types, strict=True):
                for piece in encoded.pieces[kind.name]:
                    file.write(piece.data)
                if chunk.last:
                    file.end_tensor(ALIGNMENT)
            if chunk.last:
                lost.refuse_all()
            if chunk.tensor.source is not None:
                progress.advance(chunk.values.nbytes)
                if chunk.last:
                    chunk.tensor.source.release()
    for number, problem in lost.problems():
        progress.warn(f"{', '.join(plan.name for plan in group.volumes[number])} is not made: {problem}")
        for artifact in files[number].artifacts:
            artifact.path.unlink()
    return tuple(artifact for n, file in enumerate(files) if n not in lost.found for artifact in file.artifacts)


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a tensor and the type they get in each volume."""

    tensor: StreamedTensor
    values: np.ndarray
    first_row: int
    types: tuple[BlockType, ...]
    last: bool
    weights: np.ndarray | None = None  # (columns,) or (experts, columns)
    refined: RefinedTensor | None = None

    @property
    def storage(self) -> str:
        return self.tensor.storage

    def runs(self) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
        """Runs of rows that fit the cache, none of more than one expert: first row in the tensor, values, weights."""
        experts = self.weights if self.weights is not None and self.weights.ndim > 1 else None
        per_expert = self.tensor.rows // (1 if experts is None else len(experts))
        most = max(1, HOT_VALUES // self.tensor.row_values)
        if self.refined:  # as many as there are: products of matrices want many rows
            per_expert, most = min(per_expert, self.refined.rows), len(self.values)
        row, end = self.first_row, self.first_row + len(self.values)
        while row < end:
            stop = min(end, row + most, (row // per_expert + 1) * per_expert)
            weights = self.weights if experts is None else experts[row * len(experts) // self.tensor.rows]
            values = self.values[row - self.first_row : stop - self.first_row]
            # an odd header leaves a mapped tensor unaligned
            yield row, np.require(values, requirements=("C", "A")), weights
            row = stop


def _chunks(group: Group) -> Iterator[_Chunk]:
    types = ([info.type for plan in plans for info in plan.infos] for plans in group.volumes)
    for tensor, *kinds in zip(group.tensors, *types, strict=True):
        weights = group.importance(tensor.name, tensor.row_values) if group.importance else None
        refined = group.refinement.find(tensor) if group.refinement else None
        row = 0
        for values in tensor.chunks():
            yield _Chunk(tensor, values, row, tuple(kinds), row + len(values) == tensor.rows, weights, refined)
            row += len(values)


@dataclass(frozen=True)
class _Large:
    """A value that a type cannot hold, the largest of its chunk."""

    kind: str
    value: float
    row: int  # in the tensor
    column: int


@dataclass(frozen=True)
class _Encoded:
    """By type, the bytes of a chunk in pieces, and the value that it cannot hold."""

    pieces: dict[str, list[np.ndarray]]
    large: dict[str, _Large]

    def too_large(self, found: _Large) -> None:
        """Keep it where it is the largest."""
        known = self.large.get(found.kind)
        if known is None or abs(found.value) > abs(known.value):
            self.large[found.kind] = found


class _Lost:
    """The volumes whose type cannot hold a value: the first tensor that has one, and its largest."""

    def __init__(self, volumes: int) -> None:
        self.volumes = volumes
        self.found: dict[int, tuple[_Chunk, _Large]] = {}

    def add(self, chunk: _Chunk, large: Mapping[str, _Large]) -> None:
        for number, kind in enumerate(chunk.types):
            if (value := large.get(kind.name)) is None:
                continue
            tensor, known = self.found.get(number, (chunk, value))
            if tensor.tensor is chunk.tensor and abs(value.value) >= abs(known.value):
                self.found[number] = (chunk, value)

    def problems(self) -> Iterator[tuple[int, Problem]]:
        """Volume and why it is not made."""
        for number, (chunk, large) in self.found.items():
            yield number, _too_large(chunk, large)

    def refuse_all(self) -> None:
        """Raise InputError where no volume is left."""
        if len(self.found) == self.volumes:
            found = next(problem for _, problem in self.problems())
            raise InputError(found.where, found.got, found.wanted, found.remedy)


def _in_order(pool: ThreadPoolExecutor, chunks: Iterator[_Chunk], ahead: int) -> Iterator[tuple[_Chunk, _Encoded]]:
    """Every chunk with its encodings, in order; at most `ahead` chunks are in the making meanwhile."""
    making: deque[tuple[_Chunk, Future[_Encoded]]] = deque()
    for chunk in chunks:
        making.append((chunk, pool.submit(_encode, chunk)))
        if len(making) > ahead:
            done, future = making.popleft()
            yield done, future.result()
    for done, future in making:
        yield done, future.result()


def _encode(chunk: _Chunk) -> _Encoded:
    """The chunk's bytes in every type that a file has it in."""
    kinds = {kind.name: kind for kind in chunk.types}
    if chunk.tensor.output.packed:
        return _Encoded({name: [chunk.values] for name in kinds}, {})
    encoded = _Encoded({name: [] for name in kinds}, {})
    for row, values, weights in chunk.runs():
        top = largest(values)
        if not all(top < OVERFLOW.get(name, np.inf) for name in kinds):
            _note_large(chunk, row, values, encoded)
        as_float32 = None
        for name, kind in kinds.items():
            if name == chunk.storage:
                encoded.pieces[name].append(values)  # these bits are already what such a file holds
                continue
            if as_float32 is None:
                as_float32 = to_float32(values)
            if chunk.refined:
                piece = chunk.refined.encode(name, row, as_float32, weights)
            else:
                piece = ENCODERS[name](as_float32, weights)
            if name in TOO_SMALL or (top >= ALWAYS_FITS and name not in OVERFLOW):
                _check_scales(row, as_float32, kind, piece, encoded)
            encoded.pieces[name].append(piece)
    return encoded


def _check_scales(row: int, values: np.ndarray, kind: BlockType, piece: np.ndarray, encoded: _Encoded) -> None:
    """Note a block whose scale is no number: its values are too large for the type, or too small."""
    for in_run, block in np.argwhere(overflowing(kind.name, piece)).tolist():
        span = slice(block * kind.values, (block + 1) * kind.values)
        column = span.start + int(np.abs(values[in_run, span]).argmax())
        encoded.too_large(_Large(kind.name, float(values[in_run, column]), row + in_run, column))


def _note_large(chunk: _Chunk, row: int, values: np.ndarray, encoded: _Encoded) -> None:
    """Note the largest value, for the types in which it becomes infinity. Raises InputError for what is no number."""
    numbers = np.abs((to_float32(values) if chunk.storage == "BF16" else values).astype(np.float64))
    if not np.isfinite(numbers).all():
        in_run, column = np.argwhere(~np.isfinite(numbers))[0].tolist()
        value = float(to_float32(values[in_run : in_run + 1])[0, column])
        got = f"{value} at {_place(chunk, row + in_run, column)}"
        raise InputError(_where(chunk), got, "finite numbers", "the checkpoint is damaged")
    in_run, column = map(int, np.unravel_index(int(numbers.argmax()), numbers.shape))
    value = (
        float(to_float32(values[in_run : in_run + 1])[0, column]) if chunk.storage == "BF16" else values[in_run, column]
    )
    for kind in dict.fromkeys(kind.name for kind in chunk.types):
        if numbers[in_run, column] >= OVERFLOW.get(kind, np.inf):
            encoded.too_large(_Large(kind, float(value), row + in_run, column))


def _too_large(chunk: _Chunk, large: _Large) -> Problem:
    kind = large.kind
    if abs(large.value) < TOO_SMALL.get(kind, 0.0):
        place = _place(chunk, large.row, large.column)
        got = f"the largest value of a block, {large.value:g} at {place}, is too small for {kind}"
        wanted = f"0, or at least {TOO_SMALL[kind]:g}"
        return Problem(_where(chunk), got, wanted, "use another type for this tensor, as with overrides")
    got = f"its largest value {large.value:g} at {_place(chunk, large.row, large.column)} is too large for {kind}"
    wanted = f"below {OVERFLOW[kind]:g}" if kind in OVERFLOW else "a block whose scale float16 can hold"
    return Problem(_where(chunk), got, wanted, "use BF16 or F32 for this model")


def _where(chunk: _Chunk) -> str:
    source = chunk.tensor.source.name if chunk.tensor.source else chunk.tensor.name
    return f"tensor {source}" + (f" (as {chunk.tensor.name})" if source != chunk.tensor.name else "")


def _place(chunk: _Chunk, row: int, column: int) -> list[int]:
    return list(map(int, np.unravel_index(row * chunk.tensor.row_values + column, chunk.tensor.shape)))
