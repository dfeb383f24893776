"""Importance matrices: sums of squared activations by GGUF tensor, in llama.cpp's two file formats.

A GGUF imatrix has general.type "imatrix", imatrix.datasets, imatrix.chunk_count and imatrix.chunk_size, and for every
matrix NAME the float32 tensors NAME.in_sum2 (columns, or experts x columns) and NAME.counts (tokens, one an expert).
Ours add a key that says which weights they were made from. Source: llama.cpp, tools/imatrix/imatrix.cpp,
common/imatrix-loader.cpp.

The legacy format (`.dat`), little-endian, no magic number:

    number of entries (int32), then for each
        length of the name (int32), the name, number of calls (int32), number of values (int32), float32 values
    and perhaps: number of chunks (int32), length of the data set's name (int32), that name

Its values are mean squares times the number of calls.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError, Problem
from convert.files import HashedFile, open_regular
from convert.formats.gguf.constants import ALIGNMENT, MAGIC
from convert.formats.gguf.file_plan import FilePlan, TensorInfo
from convert.formats.gguf.reader import StoredTensor, read_gguf_header
from convert.gguf_field import Field
from convert.source.untrusted import listed, refuse_pointer, shown
from quantize.blocks import TYPES

KIND = "gguf/imatrix"
TYPE, DATASETS = "general.type", "imatrix.datasets"
CHUNK_COUNT, CHUNK_SIZE = "imatrix.chunk_count", "imatrix.chunk_size"
MODEL = "convert.imatrix.weights_sha256"
SUMS, COUNTS = ".in_sum2", ".counts"

MAX_LEGACY_ENTRIES = 1 << 18
MAX_NAME_BYTES = 4096
MAX_COUNT = 1 << 62
REMEDY = "make it again, or get it from where it was made"

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ImatrixEntry:
    """What went into one matrix: sums of squares, float32 (experts or 1, columns), and counts, float32 (experts or 1,).

    Other makers' files may have a single row and count for a matrix of several experts: all columns in a row.
    """

    values: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False)
class Imatrix:
    """An importance matrix: entries by the name of the GGUF tensor. `model` is the key of the weights it was made from,
    empty where the file does not say; `chunk_size` is in tokens, 0 in the legacy format."""

    entries: Mapping[str, ImatrixEntry]
    datasets: tuple[str, ...] = ()
    chunk_count: int = 0
    chunk_size: int = 0
    model: str = ""

    def weights(self, name: str, columns: int) -> np.ndarray | None:
        """The importance of the columns of tensor `name`: mean squares, float32 (columns,), or (experts, columns).

        1 for an expert without data, as in llama-quantize; None for a tensor without an entry, and for an embedding
        whose entry is of another size. Raises InputError where any other tensor's is.
        """
        entry = self.entries.get(name)
        if entry is None or (_is_embedding(name) and entry.values.size != columns):
            return None
        size = entry.values.size
        if not columns or size % columns:
            raise InputError(f"imatrix: {name}", f"{size} values", f"a multiple of {columns}", "it is another model's")
        counts = entry.counts[:, None]
        means: np.ndarray = np.ones_like(entry.values)
        np.divide(entry.values, counts, out=means, where=counts > 0)
        return means.reshape(columns) if size == columns else means.reshape(-1, columns)


# ---- does it fit the model


def check_imatrix(imatrix: Imatrix, shapes: Mapping[str, tuple[int, ...]], model: str = "") -> list[Problem]:
    """What keeps the matrix from being used for a file of these tensors (name -> shape in numpy's order).

    `model` is the key of its weights; one that the matrix was not made from is a problem, a matrix that does not say
    is none.
    """
    problems = []
    if imatrix.model and model and imatrix.model != model:
        got = f"was made from other weights (sha256 {imatrix.model[:12]}…)"
        problems.append(Problem("imatrix", got, f"these ({model[:12]}…)", "make it from this model"))
    known = [name for name in imatrix.entries if name in shapes]
    if not known:
        got = f"has no tensor of this model, but {listed(imatrix.entries)}"
        return [*problems, Problem("imatrix", got, f"names such as {listed(shapes, 1)}", "it is another model's")]
    misfits = []
    for name in known:
        there, wanted = imatrix.entries[name].values.size, _inputs(shapes[name])
        if there != wanted and not _is_embedding(name):
            misfits.append(f"{name} {there} values where it has {wanted}")
    if misfits:
        more = f" and {len(misfits) - 4} more" if len(misfits) > 4 else ""
        got = f"disagrees with the model: {', '.join(misfits[:4])}{more}"
        problems.append(Problem("imatrix", got, "", "it is another model's"))
    return problems


def coverage(imatrix: Imatrix, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[str]:
    """Lines about what the matrix knows of these tensors, and what it does not: those weigh all columns alike."""
    matrices = [name for name, shape in shapes.items() if _is_matrix(name, shape)]
    bare = [name for name in matrices if name not in imatrix.entries]
    size = f" of {imatrix.chunk_size} tokens" if imatrix.chunk_size else ""
    source = f" from {', '.join(shown(name) for name in imatrix.datasets)}" if imatrix.datasets else ""
    found = len(matrices) - len(bare)
    yield f"imatrix: {found} of {len(matrices)} matrices, {imatrix.chunk_count} chunks{size}{source}"
    if bare:
        yield f"imatrix: no data for {listed(bare)}"
    for name in matrices:
        if name in imatrix.entries:
            idle = np.flatnonzero(imatrix.entries[name].counts == 0).tolist()
            if idle:
                total = imatrix.entries[name].counts.size
                yield f"imatrix: {name}: {len(idle)} of {total} experts have no data: {listed(map(str, idle), 8)}"
    if stray := [name for name in imatrix.entries if name not in shapes]:
        yield f"imatrix: not in this file: {listed(stray)}"
    if not imatrix.model:
        yield "imatrix: does not say which weights it was made from; that its sizes fit was all that could be checked"


def _inputs(shape: tuple[int, ...]) -> int:
    """Values an entry has for a tensor of this shape: its columns, times its experts."""
    return shape[-1] * (shape[-3] if len(shape) > 2 else 1)


def _is_embedding(name: str) -> bool:
    """Rows that are looked up, not multiplied with; what other files say of one is no use."""
    return name.startswith("token_embd.")


def _is_matrix(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) > 1 and name.endswith(".weight") and not name.endswith("_norm.weight") and not _is_embedding(name)


# ---- writing


def write_imatrix(path: Path, imatrix: Imatrix) -> Artifact:
    """The artifact of a new GGUF imatrix at `path`; equal matrices give equal bytes."""
    plan = imatrix_plan(path.name, {name: e.values.shape for name, e in imatrix.entries.items()}, imatrix)
    with HashedFile(path) as file:
        file.write(plan.header)
        for name in sorted(imatrix.entries):
            entry = imatrix.entries[name]
            for values in (entry.values, entry.counts):
                file.write(np.ascontiguousarray(values, "<f4").data)
                file.pad_to(ALIGNMENT)
    return file.artifact(KIND)


def imatrix_plan(file_name: str, shapes: Mapping[str, tuple[int, ...]], about: Imatrix) -> FilePlan:
    """The file that holds entries of these shapes, (experts, columns) by name, and what `about` says of them.

    Order, dimensions and types are llama-imatrix's.
    """
    infos = []
    for name in sorted(shapes):
        experts, columns = shapes[name]
        several = experts > 1
        infos.append(TensorInfo(name + SUMS, (experts, columns) if several else (columns,), TYPES["F32"]))
        infos.append(TensorInfo(name + COUNTS, (experts, 1) if several else (1,), TYPES["F32"]))
    fields = [
        Field.string(TYPE, "imatrix"),
        Field.strings(DATASETS, about.datasets),
        Field.uint32(CHUNK_COUNT, about.chunk_count),
        Field.uint32(CHUNK_SIZE, about.chunk_size),
        *([Field.string(MODEL, about.model)] if about.model else []),
    ]
    return FilePlan(file_name, KIND, tuple(fields), tuple(infos))


# ---- reading


def read_imatrix(path: Path) -> Imatrix:
    """The importance matrix in a file from a stranger, of either format. Raises InputError."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
        refuse_pointer(path, start)
        return _read_gguf(path) if start[: len(MAGIC)] == MAGIC else _read_legacy(path)
    except FileNotFoundError:
        raise InputError(str(path), "does not exist", "an imatrix", "paths are relative to the recipe") from None
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None


def _read_gguf(path: Path) -> Imatrix:
    header = read_gguf_header(path)
    fields = {field.key: field.value for field in header.fields}
    if fields.get(TYPE) != "imatrix":
        raise InputError(str(path), f"is a GGUF file of type {shown(fields.get(TYPE, 'model'))}", "an imatrix")
    get = functools.partial(_field, path, fields)
    datasets = get(DATASETS, tuple)
    entries = {}
    for name, (sums, counts) in _pairs(path, header.tensors).items():
        entries[name] = _entry(path, name, _load(path, sums), _load(path, counts))
    if not entries:
        raise InputError(str(path), "has no entries", "an imatrix", REMEDY)
    model = get(MODEL, str) if MODEL in fields else ""
    return Imatrix(entries, tuple(map(str, datasets)), get(CHUNK_COUNT, int), get(CHUNK_SIZE, int), model)


def _field(path: Path, fields: Mapping[str, object], key: str, kind: type[T]) -> T:
    value = fields.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        got = f"{key} is {shown(value)}" if key in fields else f"lacks {key}"
        raise InputError(str(path), got, {int: "a whole number", str: "a text", tuple: "a list"}[kind], REMEDY)
    return value


def _pairs(path: Path, tensors: tuple[StoredTensor, ...]) -> dict[str, tuple[StoredTensor, StoredTensor]]:
    """The two tensors of every entry, by the name of its matrix."""
    found: dict[str, dict[str, StoredTensor]] = {}
    for tensor in tensors:
        suffix = next((s for s in (SUMS, COUNTS) if tensor.name.endswith(s)), "")
        if not suffix or tensor.type.name != "F32":
            wanted = f"F32 tensors called …{SUMS} and …{COUNTS}"
            raise InputError(str(path), f"tensor {shown(tensor.name)} of {tensor.type.name}", wanted, REMEDY)
        found.setdefault(tensor.name.removesuffix(suffix), {})[suffix] = tensor
    for name, pair in found.items():
        if len(pair) < 2:
            raise InputError(str(path), f"{shown(name)} has {next(iter(pair))} alone", f"{SUMS} and {COUNTS}", REMEDY)
    return {name: (pair[SUMS], pair[COUNTS]) for name, pair in found.items()}


def _load(path: Path, tensor: StoredTensor) -> np.ndarray:
    """The tensor's numbers, float32, in a row; the header was checked against the file's size."""
    return np.fromfile(path, "<f4", tensor.nbytes // 4, offset=tensor.start)


def _entry(path: Path, name: str, values: np.ndarray, counts: np.ndarray) -> ImatrixEntry:
    """The entry of numbers that can be what they say; counts are whole, as llama.cpp reads them."""
    where = f"{path}: {shown(name)}"
    if not values.size or not counts.size or values.size % counts.size:
        raise InputError(where, f"{values.size} sums for {counts.size} counts", "as many for each", REMEDY)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise InputError(where, "sums of squares that are negative or no numbers", "finite numbers from 0 on", REMEDY)
    if not (np.isfinite(counts) & (counts >= 0) & (counts < MAX_COUNT)).all():
        raise InputError(where, "counts that are negative or no numbers", "finite numbers from 0 on", REMEDY)
    whole = np.floor(counts.astype(np.float64) + 0.5).astype(np.float32)
    return ImatrixEntry(values.reshape(counts.size, -1).astype(np.float32), whole)


class _Legacy:
    """A legacy file from its start on; every length is checked against what is left."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> bytes:
        if size > self.left:
            got = f"is no imatrix, or ends early: {what} wants {size} bytes, {self.left} are left"
            raise InputError(str(self.path), got, "a GGUF imatrix or a legacy .dat", REMEDY)
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, what: str, least: int, most: int) -> int:
        (value,) = struct.unpack("<i", self.take(4, what))
        if not least <= value <= most:
            got = f"is no imatrix, or damaged: {what} is {value}"
            raise InputError(str(self.path), got, f"{least} to {most}, in a GGUF imatrix or a legacy .dat", REMEDY)
        return int(value)

    def text(self, what: str, least: int) -> str:
        length = self.number(f"the length of {what}", least, MAX_NAME_BYTES)
        return self.take(length, what).decode("utf-8", "replace").rstrip("\0")


def _read_legacy(path: Path) -> Imatrix:
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _legacy(path, _Legacy(path, data))


def _legacy(path: Path, file: _Legacy) -> Imatrix:
    entries: dict[str, ImatrixEntry] = {}
    for _ in range(file.number("the number of entries", 1, MAX_LEGACY_ENTRIES)):
        name = file.text("a name", 1)
        calls = file.number(f"the calls of {shown(name)}", 0, (1 << 31) - 1) or 1  # without calls: mean squares as such
        size = file.number(f"the size of {shown(name)}", 1, file.left // 4)
        values = np.frombuffer(file.take(4 * size, shown(name)), "<f4")
        if name in entries:
            raise InputError(str(path), f"has {shown(name)} twice", "every name once", REMEDY)
        entries[name] = _entry(path, name, values, np.array([calls], np.float32))
    chunks = file.number("the number of chunks", 0, (1 << 31) - 1) if file.left else 0
    dataset = file.text("the data set's name", 0) if file.left else ""
    if file.left:
        raise InputError(str(path), f"has {file.left} bytes after its end", "a legacy .dat", REMEDY)
    return Imatrix(entries, (dataset,) if dataset else (), chunks)
