"""A GGUF writer that streams: one pass over the source tensors, any number of files, memory of a few chunks.

    magic "GGUF", version 3 (uint32), number of tensors, number of fields (uint64)
    fields       key, type (uint32), value; an array is item type (uint32), count (uint64), items
    infos        name, number of dimensions (uint32), dimensions (uint64, fastest first), type (uint32), offset (uint64)
    padding to a multiple of 32, where offset 0 is; every tensor is padded to a multiple of 32

A string is its length (uint64) and its UTF-8. Everything is little-endian. Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import functools
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError
from convert.files import HashedFile
from convert.gguf.fields import SCALARS, Field, GGUFValueType
from convert.gguf.tensors import OutputTensor
from convert.progress import Progress
from quantize.blocks import BlockType
from quantize.encoders import ENCODERS, OVERFLOW
from quantize.floats import bf16_to_f32

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32


@dataclass(frozen=True)
class TensorInfo:
    """What the header says about a tensor; `shape` in numpy's order."""

    name: str
    shape: tuple[int, ...]
    type: BlockType

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class FilePlan:
    """A GGUF file before it is written: everything is known but the tensors' values."""

    name: str  # of the file
    kind: str  # of its Artifact
    fields: tuple[Field, ...]
    infos: tuple[TensorInfo, ...]

    @functools.cached_property
    def header(self) -> bytes:
        """All bytes before the first tensor."""
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self.infos), len(self.fields))]
        parts += map(field_bytes, self.fields)
        offset = 0
        for info in self.infos:
            dimensions = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
            parts += [_string(info.name), dimensions, struct.pack("<IQ", info.type.id, offset)]
            offset += padded(info.nbytes)
        header = b"".join(parts)
        return header + bytes(-len(header) % ALIGNMENT)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return len(self.header) + sum(padded(info.nbytes) for info in self.infos)


def padded(size: int) -> int:
    """`size` and the bytes after it up to the next multiple of the alignment."""
    return size + -size % ALIGNMENT


def field_bytes(field: Field) -> bytes:
    """The field as the file holds it."""
    key = _string(field.key) + struct.pack("<I", field.type)
    if field.type is not GGUFValueType.ARRAY:
        return key + _value(field.type, field.value)
    assert field.sub_type is not None
    assert isinstance(field.value, tuple)
    head = key + struct.pack("<IQ", field.sub_type, len(field.value))
    if field.sub_type is GGUFValueType.STRING:
        return head + b"".join(map(_string, field.value))
    return head + struct.pack(f"<{len(field.value)}{SCALARS[field.sub_type]}", *field.value)


def _value(kind: GGUFValueType, value: object) -> bytes:
    return _string(str(value)) if kind is GGUFValueType.STRING else struct.pack(f"<{SCALARS[kind]}", value)


def _string(text: str) -> bytes:
    raw = text.encode("utf-8")
    return struct.pack("<Q", len(raw)) + raw


def write_files(
    out: Path, plans: Sequence[FilePlan], tensors: Sequence[OutputTensor], progress: Progress, workers: int = 2
) -> tuple[Artifact, ...]:
    """Write every planned file into the folder `out`; returns their artifacts in the same order.

    All plans list the same `tensors`, each in types of its own. A chunk of rows is read and converted to float32
    once and encoded for every file while it is hot, `workers` chunks at a time; this thread hashes and writes.
    Raises InputError for values a file cannot hold; then none of the files is left.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(HashedFile(out / plan.name)) for plan in plans]
        for file, plan in zip(files, plans, strict=True):
            file.write(plan.header)
        pool = stack.enter_context(ThreadPoolExecutor(workers))
        chunks = _chunks(tensors, [tuple(plan.infos[i].type for plan in plans) for i in range(len(tensors))])
        for chunk, encoded in _in_order(pool, chunks, workers):
            for file, data in zip(files, encoded, strict=True):
                file.write(data.data)
                if chunk.last:
                    file.pad_to(ALIGNMENT)
            if chunk.tensor.source is not None:
                progress.advance(chunk.values.nbytes)
                if chunk.last:
                    chunk.tensor.source.release()
    return tuple(file.artifact(plan.kind) for file, plan in zip(files, plans, strict=True))


@dataclass(frozen=True)
class _Chunk:
    """Some rows of a tensor and the type they get in each file."""

    tensor: OutputTensor
    values: np.ndarray
    first_row: int
    types: tuple[BlockType, ...]
    last: bool


def _chunks(tensors: Sequence[OutputTensor], types: Sequence[tuple[BlockType, ...]]) -> Iterator[_Chunk]:
    for tensor, kinds in zip(tensors, types, strict=True):
        row = 0
        for values in tensor.chunks():
            yield _Chunk(tensor, values, row, kinds, row + len(values) == tensor.rows)
            row += len(values)


def _in_order(
    pool: ThreadPoolExecutor, chunks: Iterator[_Chunk], ahead: int
) -> Iterator[tuple[_Chunk, list[np.ndarray]]]:
    """Every chunk with its encodings, in order; at most `ahead` chunks are in the making meanwhile."""
    making: deque[tuple[_Chunk, Future[list[np.ndarray]]]] = deque()
    for chunk in chunks:
        making.append((chunk, pool.submit(_encode, chunk)))
        if len(making) > ahead:
            done, future = making.popleft()
            yield done, future.result()
    for done, future in making:
        yield done, future.result()


def _encode(chunk: _Chunk) -> list[np.ndarray]:
    """The chunk's bytes in each file; equal types share one array."""
    storage = _storage(chunk)
    values = np.require(chunk.values, requirements=("C", "A"))  # an odd header leaves a mapped tensor unaligned
    _check_range(chunk, values, storage)
    encoded = {storage: values}  # these bits are already what such a file holds
    if any(kind.name != storage for kind in chunk.types):
        as_float32 = bf16_to_f32(values) if storage == "BF16" else values.astype(np.float32, copy=False)
        for kind in chunk.types:
            if kind.name not in encoded:
                encoded[kind.name] = ENCODERS[kind.name](as_float32)
    return [encoded[kind.name] for kind in chunk.types]


def _storage(chunk: _Chunk) -> str:
    return chunk.tensor.source.dtype if chunk.tensor.source else "F32"


def _check_range(chunk: _Chunk, values: np.ndarray, storage: str) -> None:
    """Raise InputError for NaN, infinity, and what would become infinity in one of the types."""
    largest = _largest(values, storage)
    limits = {kind.name: OVERFLOW[kind.name] for kind in chunk.types}
    if all(largest < limit for limit in limits.values()):
        return
    name, limit = min(limits.items(), key=lambda item: item[1])
    numbers = (bf16_to_f32(values) if storage == "BF16" else values).astype(np.float64)
    row, column = np.argwhere(~(np.abs(numbers) < limit))[0].tolist()
    place = np.unravel_index((chunk.first_row + row) * chunk.tensor.row_values + column, chunk.tensor.shape)
    value = numbers[row, column]
    source = chunk.tensor.source.name if chunk.tensor.source else chunk.tensor.name
    where = f"tensor {source}" + (f" (as {chunk.tensor.name})" if source != chunk.tensor.name else "")
    if np.isfinite(value):
        remedy = "use BF16 or F32 for this model"
        raise InputError(
            where, f"{value:g} at {list(map(int, place))} is too large for {name}", f"below {limit:g}", remedy
        )
    raise InputError(where, f"{value} at {list(map(int, place))}", "finite numbers", "the checkpoint is damaged")


def _largest(values: np.ndarray, storage: str) -> float:
    """The largest absolute value; NaN when there is one."""
    if not values.size:
        return 0.0
    if storage == "BF16":  # without the sign bit, the bits are in the order of the numbers; NaN is above infinity
        return float(bf16_to_f32((values & 0x7FFF).max(keepdims=True)).item())
    return float(np.maximum(values.max(), -values.min()))
