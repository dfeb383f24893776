"""One metadata entry of a GGUF file, typed as the format types it. Imports nothing heavy."""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

from convert.errors import InputError


class GGUFValueType(IntEnum):
    """The value types of GGUF, by the numbers the file holds (ggml/docs/gguf.md)."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


# struct's format characters, little-endian; strings and arrays are not of a fixed size
SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "?",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}

_RANGES = {
    GGUFValueType.UINT8: (0, 2**8 - 1),
    GGUFValueType.INT8: (-(2**7), 2**7 - 1),
    GGUFValueType.UINT16: (0, 2**16 - 1),
    GGUFValueType.INT16: (-(2**15), 2**15 - 1),
    GGUFValueType.UINT32: (0, 2**32 - 1),
    GGUFValueType.INT32: (-(2**31), 2**31 - 1),
    GGUFValueType.UINT64: (0, 2**64 - 1),
    GGUFValueType.INT64: (-(2**63), 2**63 - 1),
}

_LARGEST = {
    GGUFValueType.FLOAT32: float.fromhex("0x1.fffffep127"),
    GGUFValueType.FLOAT64: float.fromhex("0x1.fffffffffffffp1023"),
}


@dataclass(frozen=True)
class Field:
    """One key and its value. `sub_type` is the type of an array's items, None for a scalar.

    Make one by the constructors below: they raise InputError, naming the key, for a value its type cannot hold.
    """

    key: str
    value: object
    type: GGUFValueType
    sub_type: GGUFValueType | None = None

    @functools.cached_property
    def encoded(self) -> bytes:
        """The field as the file holds it."""
        key = text_bytes(self.key) + struct.pack("<I", self.type)
        if self.type is not GGUFValueType.ARRAY:
            return key + _scalar(self.type, self.value)
        assert self.sub_type is not None
        assert isinstance(self.value, tuple)
        head = key + struct.pack("<IQ", self.sub_type, len(self.value))
        if self.sub_type is GGUFValueType.STRING:
            raw = [text.encode("utf-8") for text in self.value]
            sizes = map(_SIZE.pack, map(len, raw))
            return head + b"".join(itertools.chain.from_iterable(zip(sizes, raw, strict=True)))
        return head + struct.pack(f"<{len(self.value)}{SCALARS[self.sub_type]}", *self.value)

    @classmethod
    def string(cls, key: str, value: str) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.STRING), GGUFValueType.STRING)

    @classmethod
    def boolean(cls, key: str, value: bool) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.BOOL), GGUFValueType.BOOL)

    @classmethod
    def uint8(cls, key: str, value: int) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.UINT8), GGUFValueType.UINT8)

    @classmethod
    def uint32(cls, key: str, value: int) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.UINT32), GGUFValueType.UINT32)

    @classmethod
    def int32(cls, key: str, value: int) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.INT32), GGUFValueType.INT32)

    @classmethod
    def uint64(cls, key: str, value: int) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.UINT64), GGUFValueType.UINT64)

    @classmethod
    def float32(cls, key: str, value: float) -> Field:
        return cls(key, _checked(key, value, GGUFValueType.FLOAT32), GGUFValueType.FLOAT32)

    @classmethod
    def array(cls, key: str, values: Iterable[object], sub_type: GGUFValueType) -> Field:
        """An array of scalars or strings, all of `sub_type`."""
        items = tuple(values)
        if not _all_good(items, sub_type):  # a vocabulary has 150,000: looked at one by one to name the one that is not
            for value in items:
                _checked(key, value, sub_type)
        return cls(key, items, GGUFValueType.ARRAY, sub_type)

    @classmethod
    def strings(cls, key: str, values: Iterable[str]) -> Field:
        return cls.array(key, values, GGUFValueType.STRING)

    @classmethod
    def booleans(cls, key: str, values: Iterable[bool]) -> Field:
        return cls.array(key, values, GGUFValueType.BOOL)

    @classmethod
    def uint32s(cls, key: str, values: Iterable[int]) -> Field:
        return cls.array(key, values, GGUFValueType.UINT32)

    @classmethod
    def int32s(cls, key: str, values: Iterable[int]) -> Field:
        return cls.array(key, values, GGUFValueType.INT32)

    @classmethod
    def float32s(cls, key: str, values: Iterable[float]) -> Field:
        return cls.array(key, values, GGUFValueType.FLOAT32)


_SIZE = struct.Struct("<Q")


def text_bytes(text: str) -> bytes:
    """A string as the format has it: its length, then its UTF-8."""
    raw = text.encode("utf-8")
    return _SIZE.pack(len(raw)) + raw


def _scalar(kind: GGUFValueType, value: object) -> bytes:
    return text_bytes(str(value)) if kind is GGUFValueType.STRING else struct.pack(f"<{SCALARS[kind]}", value)


def _all_good(values: Sequence[object], kind: GGUFValueType) -> bool:
    """Whether `_checked` takes every value, seen at once; False also where only a look at each can tell."""
    kinds = set(map(type, values))
    if kind is GGUFValueType.STRING:
        return kinds <= {str} and _is_text("".join(values))  # type: ignore[arg-type]  # all are strings
    if kind in _RANGES and values and kinds == {int}:
        low, high = _RANGES[kind]
        return low <= min(values) and max(values) <= high  # type: ignore[type-var, operator]  # all are integers
    if kind in _LARGEST and values and kinds == {float}:
        return not any(map(math.isnan, values)) and max(map(abs, values)) <= _LARGEST[kind]  # type: ignore[arg-type]
    return False


def _checked(key: str, value: object, kind: GGUFValueType) -> object:
    """`value` where `kind` can hold it; a bool is no number and a number no bool."""
    if kind is GGUFValueType.STRING:
        good = isinstance(value, str) and _is_text(value)
    elif kind is GGUFValueType.BOOL:
        good = isinstance(value, bool)
    elif kind in (GGUFValueType.FLOAT32, GGUFValueType.FLOAT64):
        good = isinstance(value, int | float) and not isinstance(value, bool) and _fits(value, kind)
    else:
        low, high = _RANGES[kind]
        good = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    if not good:
        raise InputError(f"GGUF field {key}", ascii(value)[:80], f"a value of type {kind.name}")
    return value


def _fits(value: float, kind: GGUFValueType) -> bool:
    """Whether the number is one, and infinite in the file only when it is infinite here."""
    return not math.isnan(value) and (math.isinf(value) or abs(value) <= _LARGEST[kind])


def _is_text(value: str) -> bool:
    """Whether it can be written: JSON can hold halves of surrogate pairs, UTF-8 cannot."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
