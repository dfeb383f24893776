"""The safetensors format: a file's header, checked before it is believed; its bytes, mapped; a writer that streams.

    bytes 0..7     length of the header, little-endian
    bytes 8..      header: a JSON object, name -> {dtype, shape, data_offsets}, and "__metadata__" -> {str: str}
    bytes 8+len..  the tensors, row-major, little-endian, without holes; data_offsets count from here

Source: https://github.com/huggingface/safetensors, README.md ("Format") and its reference reader's checks.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TypeGuard

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError
from convert.files import Buffer, HashedFile, open_regular
from convert.json_types import JsonDict
from convert.source.untrusted import parse_object, refuse_pointer, shown

MAX_HEADER_BYTES = 100_000_000  # the reference reader's own limit
MAX_RANK = 64  # numpy's limit
METADATA = "__metadata__"

BITS = {
    **{"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E4M3FNUZ", "F8_E5M2", "F8_E5M2FNUZ", "F8_E8M0"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}
"""Every dtype of the format -> bits a value takes."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a header; `start` and `stop` count from the file's first byte."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says it holds, checked against its size. `entries` are in the order of the bytes."""

    path: Path
    entries: tuple[Entry, ...]
    metadata: Mapping[str, str]
    identity: tuple[int, ...]  # of the file that was read, to notice another in its place


def read_header(path: Path) -> Header:
    """The checked header of the safetensors file at `path`; no byte of a tensor is read.

    Raises InputError for a header that is not one, or that does not describe this file exactly.
    """
    try:
        with open_regular(path) as file:
            status = os.fstat(file.fileno())
            prefix = file.read(64)
            refuse_pointer(path, prefix)
            length = _header_length(path, prefix, status.st_size)
            file.seek(8)
            raw = file.read(length)
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if raw[:1] != b"{":
        raise InputError(str(path), "its header does not start with '{'", "a safetensors file", "download it again")
    table = parse_object(str(path), raw, unique=True)
    metadata = _metadata(path, table.pop(METADATA, None))
    base = 8 + length
    entries = sorted(
        (_entry(path, name, value, base) for name, value in table.items()), key=lambda e: (e.start, e.stop)
    )
    _check_cover(path, entries, base, status.st_size)
    return Header(path, tuple(entries), metadata, _identity(status))


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _header_length(path: Path, prefix: bytes, file_size: int) -> int:
    if len(prefix) < 8:
        raise InputError(str(path), f"is only {len(prefix)} bytes long", "a safetensors file", "download it again")
    (length,) = struct.unpack("<Q", prefix[:8])
    if length > file_size - 8:
        raise InputError(
            str(path),
            f"its header claims {length} bytes, the file has {file_size - 8} after the length",
            "a whole safetensors file",
            "it was cut short or is not one; download it again",
        )
    if length > MAX_HEADER_BYTES:
        raise InputError(str(path), f"its header claims {length} bytes", f"at most {MAX_HEADER_BYTES}")
    return int(length)


def _metadata(path: Path, value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise InputError(str(path), f"{METADATA} in its header is not a map of texts", "an object of strings")
    return value


def _entry(path: Path, name: str, value: object, base: int) -> Entry:
    where = f"{path}: tensor {shown(name)}"
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise InputError(where, "its entry lacks dtype, shape or data_offsets", "all three")
    if not name.isprintable():  # lone surrogates and control characters: no such name can be written or shown
        raise InputError(where, "its name holds characters that cannot be printed", "a plain name")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise InputError(
            where, f"has the unknown dtype {shown(dtype)}", "a dtype of the safetensors format, such as BF16"
        )
    if not _counts(shape) or len(shape) > MAX_RANK:
        raise InputError(where, f"has the shape {shown(shape)}", f"a list of at most {MAX_RANK} counts")
    if not _counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise InputError(where, f"has the data_offsets {shown(offsets)}", "[first byte, byte after the last]")
    if prod(filter(None, shape)) * BITS[dtype] >= 1 << 63:
        raise InputError(where, f"its shape {shown(shape)} has more values than a file can hold")
    bits, (start, stop) = prod(shape) * BITS[dtype], offsets
    if bits != 8 * (stop - start):
        raise InputError(
            where,
            f"its data_offsets span {stop - start} bytes",
            f"{bits / 8:.0f} for shape {shown(shape)} of {dtype}",
            "the file is damaged; download it again",
        )
    return Entry(name, dtype, tuple(shape), base + start, base + stop)


def _counts(value: object) -> TypeGuard[list[int]]:
    """Whether `value` is a list of whole numbers that a file offset can hold; true and false are not numbers."""
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _check_cover(path: Path, entries: Sequence[Entry], base: int, file_size: int) -> None:
    """Raise InputError unless the tensors take up the bytes from `base` to the file's end, each byte once."""
    position, last = base, ""
    for entry in entries:
        where = f"{path}: tensor {shown(entry.name)}"
        if entry.start < position:
            raise InputError(where, f"its bytes overlap those of {shown(last)}", "bytes of its own")
        if entry.start > position:
            raise InputError(
                where,
                f"{entry.start - position} bytes before it belong to no tensor",
                "tensors that follow each other without a gap",
            )
        if entry.stop > file_size:
            raise InputError(
                where,
                f"ends at byte {entry.stop}, the file has {file_size}",
                "offsets inside the file",
                "the file was cut short or its header is false; download it again",
            )
        position, last = entry.stop, entry.name
    if position != file_size:
        raise InputError(
            str(path), f"{file_size - position} bytes at its end belong to no tensor", "a file that ends with its data"
        )


class MappedFile:
    """A safetensors file's bytes, mapped read-only at the first use; the pages are the kernel's to take back."""

    def __init__(self, header: Header) -> None:
        self._path = header.path
        self._identity = header.identity

    @cached_property
    def _map(self) -> mmap.mmap:
        try:
            with open(self._path, "rb") as file:
                if _identity(os.fstat(file.fileno())) != self._identity:
                    raise InputError(str(self._path), "changed while it was in use", "a file that stays as it is")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(str(self._path), f"cannot be mapped ({error.strerror})") from None

    def view(self, entry: Entry, dtype: np.dtype) -> np.ndarray:
        """The tensor's values, read-only, without a copy. An odd header leaves them unaligned (`flags.aligned`)."""
        if entry.start == entry.stop:
            return np.empty(entry.shape, dtype)
        return np.frombuffer(self._map, dtype, prod(entry.shape), entry.start).reshape(entry.shape)

    def release(self, entry: Entry) -> None:
        """Take the tensor's pages out of this process; a view of it stays valid and reads them again."""
        start = entry.start - entry.start % mmap.PAGESIZE
        if "_map" in self.__dict__ and entry.stop > start and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, start, entry.stop - start)


def write(
    path: Path,
    specs: Mapping[str, tuple[str, tuple[int, ...]]],
    data: Iterable[Buffer | Iterator[Buffer]],
    metadata: Mapping[str, str],
) -> Artifact:
    """The artifact of a new safetensors file, hashed while it was written; one tensor in memory at a time.

    `specs` maps each name to (dtype, shape); `data` gives the tensors' bytes in the same order, each at once or in
    pieces. Raises ValueError when they do not agree: that is a mistake of the caller's.
    """
    table: JsonDict = {METADATA: dict(metadata)} if metadata else {}
    position, ends = 0, []
    for name, (dtype, shape) in specs.items():
        size = prod(shape) * BITS[dtype] // 8
        table[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, position + size]}
        position += size
        ends.append(position)
    header = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)  # as the reference writer: the data starts at a multiple of 8
    with HashedFile(path) as file:
        file.write(struct.pack("<Q", len(header)) + header)
        base = file.size
        for end, values in zip(ends, data, strict=True):
            for piece in values if isinstance(values, Iterator) else (values,):
                file.write(piece)
            if file.size - base != end:
                raise ValueError(f"{path}: a tensor ends at {file.size - base}, its header says {end}")
    return file.artifact("safetensors")
