"""GGUF files: as something to look at, as a source, and as what somebody wants judged."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from convert.formats.gguf.file_plan import FilePlan, TensorInfo, padded
from convert.gguf_field import Field, GGUFValueType
from quantize.blocks import TYPES
from tests.robust.cases.base import KINDS, Case, Place, cases, make_special

U64 = struct.Struct("<Q").pack
HEAD = b"GGUF" + struct.pack("<I", 3)
INSPECT, FIT = ("inspect", "x.gguf"), ("fit", "x.gguf", "--ram", "8GB")
SOURCE = "name: r\nmodel: {path: x.gguf}\nstages:\n  gguf: {use: gguf, types: [Q8_0]}\n"
EXISTING = "name: r\nmodel: {path: Tiny}\nstages:\n  theirs: {use: existing, path: x.gguf}\n"


def _file(raw: bytes) -> Callable[[Place], object]:
    return lambda place: place.write("x.gguf", raw)


def _field(kind: int, rest: bytes, key: bytes = b"k") -> bytes:
    return HEAD + U64(0) + U64(1) + U64(len(key)) + key + struct.pack("<I", kind) + rest + bytes(64)


def _info(dims: list[int], kind: int = 0, offset: int = 0, name: bytes = b"t") -> bytes:
    shape = struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
    return HEAD + U64(1) + U64(0) + U64(len(name)) + name + shape + struct.pack("<IQ", kind, offset) + bytes(99)


HEADERS = {
    "nothing": b"",
    "four bytes": b"GGUF",
    "garbage": b"GGUF" + bytes(range(256)) * 8,
    "version 1": b"GGUF" + struct.pack("<I", 1) + bytes(64),
    "version 2**32-1": b"GGUF" + b"\xff" * 4 + bytes(64),
    "big-endian": b"GGUF" + struct.pack(">I", 3) + bytes(64),
    "2**63 tensors": HEAD + U64(1 << 63) + U64(0) + bytes(64),
    "2**18 fields": HEAD + U64(0) + U64(1 << 18) + bytes(64),
    "a key of 2**62 bytes": HEAD + U64(0) + U64(1) + U64(1 << 62) + b"k",
    "a text of 2**63 bytes": _field(8, U64(1 << 63)),
    "an array of 2**60 numbers": _field(9, struct.pack("<IQ", 10, 1 << 60)),
    "an array of 2**24 texts": _field(9, struct.pack("<IQ", 8, 1 << 24)),
    "arrays within arrays": _field(9, struct.pack("<IQ", 9, 1) * 1000),
    "an array of an unknown type": _field(9, struct.pack("<IQ", 99, 1)),
    "a value of an unknown type": _field(77, b""),
    "a key that is no text": _field(4, bytes(4), b"\xff\xfe"),
    "a key that clears the screen": _field(4, bytes(4), b"\x1b[2J\n"),
    "a key with a NUL": _field(4, bytes(4), b"a\0b"),
    "five dimensions": _info([1] * 5),
    "a shape that overflows": _info([1 << 40] * 4),
    "a dimension of 2**64-1": _info([(1 << 64) - 1]),
    "no dimension": _info([]),
    "rows of half a block": _info([16], kind=8),
    "an unknown type": _info([32], kind=999),
    "a type that was taken away": _info([32], kind=4),
    "data beyond the end": _info([8], offset=1 << 40),
    "an offset that overflows": _info([8], offset=(1 << 64) - 32),
    "data off the grid": _info([1], offset=4),
    "a name of no text": _info([8], name=b"\xff\xff"),
    "a name that is a path": _info([8], name=b"../../../etc/passwd"),
}


def _sound(*fields: Field) -> bytes:
    """A file that is well made and says strange things."""
    infos = (
        TensorInfo("token_embd.weight", (8, 32), TYPES["F32"]),
        TensorInfo("output_norm.weight", (32,), TYPES["F32"]),
    )
    return FilePlan("x.gguf", "gguf/F16", fields, infos).header + b"".join(bytes(padded(i.nbytes)) for i in infos)


def _llama(**changes: Any) -> bytes:
    """A llama of no layers whose metadata says something else."""
    words: dict[str, Any] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.embedding_length": 32,
        "llama.context_length": 64,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 4,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>"] * 8,
    } | changes
    return _sound(*(_of(key, value) for key, value in words.items() if value is not None))


def _of(key: str, value: Any) -> Field:
    if isinstance(value, Field):
        return value
    if isinstance(value, str):
        return Field.string(key, value)
    if isinstance(value, float):
        return Field(key, value, GGUFValueType.FLOAT32)  # as no writer would: NaN
    if isinstance(value, list):
        return Field.strings(key, value)
    return Field.uint64(key, value) if value >= 0 else Field.int32(key, value)


SAYS = {
    "no architecture": {"general.architecture": None},
    "an architecture that is a number": {"general.architecture": 7},
    "an architecture of control characters": {"general.architecture": "\x1b[2J"},
    "10**12 blocks": {"llama.block_count": 10**12},
    "no blocks": {"llama.block_count": 0},
    "-1 blocks": {"llama.block_count": -1},
    "blocks that are a word": {"llama.block_count": "many"},
    "no heads": {"llama.attention.head_count": 0},
    "2**63 heads": {"llama.attention.head_count": 2**63},
    "a context of 2**63": {"llama.context_length": 2**63},
    "NaN for a frequency": {"llama.rope.freq_base": float("nan")},
    "no tokens": {"tokenizer.ggml.tokens": None},
    "a tokenizer that is a number": {"tokenizer.ggml.model": 7},
    "an unknown tokenizer": {"tokenizer.ggml.model": "doom"},
    "a template that is a number": {"tokenizer.chat_template": 3},
    "a template that reads files": {"tokenizer.chat_template": "{% include '/etc/passwd' %}"},
    "a split of 65535": {"split.count": Field("split.count", 65535, GGUFValueType.UINT16)},
    "an alignment of 0": {"general.alignment": Field.uint32("general.alignment", 0)},
    "an alignment of 3": {"general.alignment": Field.uint32("general.alignment", 3)},
    "a name of a megabyte": {"general.name": "x" * (1 << 20)},
    "a name that is a path": {"general.name": "../../../tmp/pwned"},
    "a source of control characters": {"general.source.url": "\x1b]0;x\x07\n"},
}


def _with(recipe: str, raw: bytes) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        place.write("x.gguf", raw)
        place.recipe(recipe)

    return make


def _terabyte(place: Place) -> None:
    path = place.write("x.gguf", _info([1 << 38]))
    with open(path, "r+b") as file:
        file.truncate(1 << 40)


def _shards(place: Place) -> None:
    """The first of 99999."""
    place.write("x-00001-of-99999.gguf", _llama())
    place.recipe(SOURCE.replace("x.gguf", "x-00001-of-99999.gguf"))


CASES = [
    *cases("GGUF, inspected", {n: _file(raw) for n, raw in HEADERS.items()}, command=INSPECT, harmless=True),
    *cases("GGUF, as a source", {n: _with(SOURCE, raw) for n, raw in list(HEADERS.items())[::3]}),
    *cases("GGUF, judged", {n: _with(EXISTING, raw) for n, raw in list(HEADERS.items())[1::3]}, harmless=True),
    *cases("GGUF metadata", {n: _with(SOURCE, _llama(**words)) for n, words in SAYS.items()}, harmless=True),
    *cases("GGUF metadata, fitted", {n: _file(_llama(**w)) for n, w in SAYS.items()}, command=FIT, harmless=True),
    *(
        Case("GGUF, no file", kind, lambda place, kind=kind: make_special(place.root / "x.gguf", kind), INSPECT)
        for kind in KINDS
    ),
    Case("GGUF, no file", "a pipe, as a source", lambda p: (make_special(p.root / "x.gguf", "pipe"), p.recipe(SOURCE))),
    Case("GGUF, no file", "a terabyte", _terabyte, INSPECT, harmless=True),
    Case("GGUF, no file", "the first of 99999", _shards),
]
