"""Reads the header of a GGUF file from a stranger: nothing it says is believed before it was checked.

The layout is drawn in writer.py. Version 2 differs from 3 only by allowing nothing of what 3 added.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeVar

from convert.errors import InputError
from convert.files import open_regular
from convert.formats.gguf.constants import ALIGNMENT, MAGIC
from convert.gguf_field import SCALARS, Field, GGUFValueType
from convert.source.untrusted import refuse_pointer, shown
from quantize.blocks import BY_ID, BlockType

VERSIONS = (2, 3)
MAX_NAME_BYTES = 65535  # of a field's key, by the format; tensors' names may have 63 in llama.cpp
MAX_DIMENSIONS = 4  # ggml.h, GGML_MAX_DIMS
MAX_HEADER_BYTES = 1 << 30
MAX_ENTRIES = 1 << 18  # fields, tensors
MAX_ITEMS = 1 << 24  # of one array: the largest vocabularies are below 2**19

K = TypeVar("K")


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file; `shape` in numpy's order, `start` counts from the file's first byte."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1]) if self.shape else self.type.bytes


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says it holds, checked against its size."""

    version: int
    fields: tuple[Field, ...]
    tensors: tuple[StoredTensor, ...]


def read_gguf_header(path: Path) -> GGUFHeader:
    """The checked header of the GGUF file at `path`; no byte of a tensor is read. Raises InputError."""
    try:
        with open_regular(path) as file:
            start = file.read(64)
            refuse_pointer(path, start)
            if start[:4] != MAGIC:
                raise InputError(str(path), f"starts with {start[:4]!r}", "GGUF", "is it the right file?")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _header(_Cursor(path, mapped))
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None


class _Cursor:
    """Reads on from where it stands; every length is checked against what is left of the file."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, len(MAGIC)

    def complain(self, got: str, wanted: str = "", remedy: str = "") -> InputError:
        return InputError(str(self.path), got, wanted, remedy)

    def take(self, size: int, what: str) -> bytes:
        left = min(len(self.data), MAX_HEADER_BYTES) - self.at
        if size > left:
            got = f"ends inside its header: {what} wants {size} bytes, {max(left, 0)} are left"
            raise self.complain(got, "a whole GGUF file", "it was cut short or is damaged; make or download it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str, what: str) -> int:
        (value,) = struct.unpack(f"<{form}", self.take(struct.calcsize(form), what))
        return int(value)

    def text(self, what: str, most: int | None = None) -> str:
        length = self.number("Q", what)
        if most is not None and length > most:
            raise self.complain(f"{what} claims {length} bytes", f"at most {most}")
        raw = self.take(length, what)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            # strangers' tokens may be cut in the middle of a character; keys and names may not
            if most is not None:
                raise self.complain(f"{what} is no UTF-8") from None
            return raw.decode("utf-8", "replace")

    def known(self, number: int, lookup: Callable[[int], K], what: str) -> K:
        try:
            return lookup(number)
        except (ValueError, KeyError):
            raise self.complain(f"{what} is of the unknown type {number}") from None


def _header(cursor: _Cursor) -> GGUFHeader:
    version = cursor.number("I", "the version")
    if version not in VERSIONS:
        swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
        hint = "it was made for big-endian machines" if swapped in VERSIONS else ""
        raise cursor.complain(f"is GGUF version {version}", f"one of {VERSIONS}", hint)
    n_tensors, n_fields = cursor.number("Q", "the number of tensors"), cursor.number("Q", "the number of fields")
    if max(n_tensors, n_fields) > MAX_ENTRIES:
        raise cursor.complain(f"claims {n_tensors} tensors and {n_fields} fields", f"at most {MAX_ENTRIES}")
    fields: dict[str, Field] = {}
    for _ in range(n_fields):
        field = _field(cursor)
        if field.key in fields:
            raise cursor.complain(f"has the field {shown(field.key)} twice")
        fields[field.key] = field
    alignment = _alignment(cursor, fields)
    infos = [_info(cursor) for _ in range(n_tensors)]
    base = cursor.at + -cursor.at % alignment
    tensors = tuple(StoredTensor(name, shape, kind, base + offset) for name, shape, kind, offset in infos)
    _check_places(cursor, tensors, base, alignment)
    return GGUFHeader(version, tuple(fields.values()), tensors)


def _field(cursor: _Cursor) -> Field:
    key = cursor.text("a field's key", MAX_NAME_BYTES)
    what = f"field {shown(key)}"
    kind = cursor.known(cursor.number("I", what), GGUFValueType, what)
    if kind is not GGUFValueType.ARRAY:
        return Field(key, _value(cursor, kind, what), kind)
    item = cursor.known(cursor.number("I", what), GGUFValueType, what)
    count = cursor.number("Q", what)
    if item is GGUFValueType.ARRAY or count > MAX_ITEMS:
        raise cursor.complain(f"{what} is an array of {count} items of type {item.name}", f"at most {MAX_ITEMS} values")
    if item is GGUFValueType.STRING:
        return Field(key, tuple(cursor.text(what) for _ in range(count)), kind, item)
    form = f"<{count}{SCALARS[item]}"
    return Field(key, struct.unpack(form, cursor.take(struct.calcsize(form), what)), kind, item)


def _value(cursor: _Cursor, kind: GGUFValueType, what: str) -> object:
    if kind is GGUFValueType.STRING:
        return cursor.text(what)
    form = SCALARS[kind]
    return struct.unpack(f"<{form}", cursor.take(struct.calcsize(form), what))[0]


def _alignment(cursor: _Cursor, fields: dict[str, Field]) -> int:
    value = fields["general.alignment"].value if "general.alignment" in fields else ALIGNMENT
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1 << 20 or value & (value - 1):
        raise cursor.complain(f"general.alignment is {shown(value)}", "a power of two")
    return value


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], BlockType, int]:
    name = cursor.text("a tensor's name", MAX_NAME_BYTES)
    what = f"tensor {shown(name)}"
    n_dimensions = cursor.number("I", what)
    if n_dimensions > MAX_DIMENSIONS:
        raise cursor.complain(f"{what} has {n_dimensions} dimensions", f"at most {MAX_DIMENSIONS}")
    shape = tuple(cursor.number("Q", what) for _ in range(n_dimensions))[::-1] or (1,)  # as ggml: one value
    if prod(shape) >= 1 << 63 or any(n >= 1 << 63 for n in shape):
        raise cursor.complain(f"{what} has the shape {list(shape)}", "a shape that a file can hold")
    kind = cursor.known(cursor.number("I", what), BY_ID.__getitem__, what)
    if shape and not kind.fits(shape[-1]):
        raise cursor.complain(f"{what} has rows of {shape[-1]} values", f"a multiple of {kind.values} for {kind.name}")
    return name, shape, kind, cursor.number("Q", what)


def _check_places(cursor: _Cursor, tensors: tuple[StoredTensor, ...], base: int, alignment: int) -> None:
    """Raise InputError unless every tensor has a name and bytes of its own, inside the file."""
    if len({t.name for t in tensors}) < len(tensors):
        raise cursor.complain("has two tensors of one name", "every name once")
    position, last = base, ""
    for tensor in sorted(tensors, key=lambda t: (t.start, t.nbytes)):
        what = f"tensor {shown(tensor.name)}"
        if tensor.start % alignment:
            raise cursor.complain(f"{what} starts at {tensor.start}", f"a multiple of {alignment}")
        if tensor.start < position:
            raise cursor.complain(f"{what} overlaps {shown(last)}", "bytes of its own")
        position, last = tensor.start + tensor.nbytes, tensor.name
        if position > len(cursor.data):
            got = f"{what} ends at byte {position}, the file has {len(cursor.data)}"
            raise cursor.complain(got, "a whole GGUF file", "it was cut short; make or download it again")
