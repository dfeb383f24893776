"""Safetensors: headers that lie, shards that are none, indexes that lead elsewhere."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from tests import hostile
from tests.hostile import EMBEDDING, INDEX, WEIGHTS
from tests.robust.cases.base import KINDS, Case, Place, cases

DEEP = 10_000


def _header(change: Callable[[dict[str, Any]], object]) -> Callable[[Place], None]:
    return lambda place: hostile.edit_header(place.model, lambda header: change(header) and None)


def _entry(**words: Any) -> Callable[[Place], None]:
    return _header(lambda header: header[EMBEDDING].update(words))


def _raw(header: bytes, length: int | None = None) -> Callable[[Place], None]:
    return lambda place: hostile.write_parts(place.model / WEIGHTS, header, bytes(64), length)


def _renamed(name: str) -> Callable[[Place], None]:
    return _header(lambda header: header.update({name: header.pop(EMBEDDING)}))


def _many(place: Place) -> None:
    """Two hundred thousand tensors of no bytes."""
    none = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    hostile.edit_header(place.model, lambda header: header.update({f"t{i}": none for i in range(200_000)}))


def _sparse_header(place: Place) -> None:
    """A header of 99 MB that the disk has none of."""
    path = place.model / WEIGHTS
    path.unlink()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 99_000_000))
        file.truncate(99_000_064)


def _spaces(place: Place) -> None:
    place.write(f"Tiny/{WEIGHTS}", struct.pack("<Q", 90 << 20) + b"{" + b" " * ((90 << 20) - 1))


def _sparse_data(place: Place) -> None:
    """A tensor of a terabyte, which the disk has none of, and the header agrees."""
    shape = [1 << 20, 1 << 19]
    header = json.dumps({EMBEDDING: {"dtype": "BF16", "shape": shape, "data_offsets": [0, 1 << 40]}}).encode()
    path = place.write(f"Tiny/{WEIGHTS}", struct.pack("<Q", len(header)) + header)
    with open(path, "r+b") as file:
        file.truncate(8 + len(header) + (1 << 40))


HEADERS = {
    "nested 10,000 deep": _raw(b'{"a":' * DEEP + b"1" + b"}" * DEEP),
    "lists nested 10,000 deep": _raw(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "of length zero": _raw(b""),
    "a length in big-endian": lambda p: hostile.write_parts(
        p.model / WEIGHTS, b"{}", b"", int.from_bytes(b"\0" * 7 + b"\2", "little")
    ),
    "the largest length": _raw(b"{}", (1 << 64) - 1),
    "99 MB that are not there": _sparse_header,
    "90 MB of spaces": _spaces,
    "UTF-16": _raw('{"a": 1}'.encode("utf-16")),
    "not UTF-8": _raw(b'{"\xff": 1}'),
    "a number of 100,000 digits": _raw(
        b'{"a": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b'], "data_offsets": [0, 4]}}'
    ),
    "a float in a shape": _entry(shape=[1e3, 64]),
    "NaN in a shape": _entry(shape=[float("nan")]),
    "true in a shape": _entry(shape=[True, 64]),
    "a shape of 65 axes": _entry(shape=[1] * 65),
    "a shape of a million axes": _entry(shape=[1] * 1_000_000),
    "a product that overflows": _entry(shape=[1 << 32, 1 << 32]),
    "zero times infinity": _entry(shape=[0, 1 << 62, 1 << 62]),
    "offsets backwards": _entry(data_offsets=[64, 0]),
    "negative offsets": _entry(data_offsets=[-64, 0]),
    "offsets that are words": _entry(data_offsets=["0", "64"]),
    "one offset": _entry(data_offsets=[0]),
    "a dtype that is a list": _entry(dtype=["BF16"]),
    "a dtype of control characters": _entry(dtype="\x1b[2J\n"),
    "metadata that is a list": _header(lambda header: header.update(__metadata__=["a"])),
    "metadata of numbers": _header(lambda header: header.update(__metadata__={"a": 1})),
    "a name with a line end and colours": _renamed("a\n\x1b[31merror: fine"),
    "a name of a megabyte": _renamed("a" * (1 << 20)),
    "a name that is a path": _renamed("../../../../tmp/pwned"),
    "a lone surrogate": _renamed("\ud800"),
    "200,000 tensors of nothing": _many,
    "a tensor of a sparse terabyte": _sparse_data,
}

NAMES = {
    "up and out": "../outside.safetensors",
    "an absolute path": "/etc/shadow.safetensors",
    "a path of Windows": "..\\outside.safetensors",
    "a drive of Windows": "C:outside.safetensors",
    "a NUL": "a\0.safetensors",
    "nothing": "",
    "a dot": ".",
    "a folder": "sub/model.safetensors",
    "an address": "https://example.org/model.safetensors",
    "a hundred thousand characters": "a" * 100_000 + ".safetensors",
    "control characters": "\x1b[2J\r.safetensors",
    "config.json": "config.json",
    "a number": 7,
    "null": None,
    "a list": ["a.safetensors"],
}


def _named(name: object) -> Callable[[Place], None]:
    return lambda place: hostile.write_index(place.model, dict.fromkeys(hostile.split(place.model), name))


def _index(text: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        hostile.split(place.model)
        place.write(f"Tiny/{INDEX}", text)

    return make


INDEXES = {
    **{f"names {title}": _named(name) for title, name in NAMES.items()},
    "nested 10,000 deep": _index('{"weight_map":' * DEEP + "{}" + "}" * DEEP),
    "the same key twice": _index('{"weight_map": {"a": "model-00001-of-00002.safetensors", "a": "../b.safetensors"}}'),
    "a million names": _index(
        json.dumps({"weight_map": {f"t{i}": "model-00001-of-00002.safetensors" for i in range(1_000_000)}})
    ),
    "a list": _index('{"weight_map": ["a"]}'),
    "no map": _index("{}"),
}


def _shards(count: str) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        (place.model / WEIGHTS).rename(place.model / f"model-00001-of-{count}.safetensors")

    return make


CASES = [
    *(
        Case("checkpoint", name.replace("_", " "), lambda place, broken=broken: broken(place.model))
        for name, broken in hostile.BROKEN.items()
    ),
    *cases("safetensors header", HEADERS, errors=2),
    *cases(
        "safetensors header, inspected",
        {n: HEADERS[n] for n in list(HEADERS)[:8]},
        command=("inspect", f"Tiny/{WEIGHTS}"),
    ),
    *cases("index", INDEXES, says="index.json|model-0000"),
    *cases("shards", {"one of 99999": _shards("99999"), "one of none": _shards("00000")}),
    *(
        Case("weights", f"are a {kind}", lambda place, kind=kind: place.special(WEIGHTS, kind), says=WEIGHTS)
        for kind in (*KINDS, "terabyte")
    ),
]
