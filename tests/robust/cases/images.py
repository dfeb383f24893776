"""Images of a recipe that unpack to more than anybody has."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

from tests.robust.cases.base import Case, Place, cases

RECIPE = (
    "name: r\nmodel: {path: Tiny}\nstages:\n  gguf: {use: gguf, types: [F16]}\n"
    "validate: {tokens: 128, window: 32, images: [NAME]}\n"
)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _png(width: int, height: int, data: bytes = b"", *more: bytes) -> bytes:
    head = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + b"".join(more)
        + _chunk(b"IDAT", data or zlib.compress(bytes(1000)))
        + _chunk(b"IEND", b"")
    )


def _gif(width: int, height: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + b"\x80\0\0"
        + bytes(6)
        + b","
        + struct.pack("<HHHH", 0, 0, width, height)
        + b"\0\x02\x02D\x01\0;"
    )


def _bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 200, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(100)
    )


IMAGES = {
    "a PNG of a gigapixel": ("x.png", _png(40_000, 40_000, zlib.compress(bytes(40_000 * 3 + 1) * 400))),
    "a PNG of 2**31 by 2**31": ("x.png", _png((1 << 31) - 1, (1 << 31) - 1)),
    "a PNG of 0 by 0": ("x.png", _png(0, 0)),
    "a PNG of a text that is a bomb": (
        "x.png",
        _png(8, 8, b"", _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(256 << 20)))),
    ),
    "a PNG of a profile that is a bomb": (
        "x.png",
        _png(8, 8, b"", _chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(256 << 20)))),
    ),
    "a GIF of 65,535 by 65,535": ("x.gif", _gif(65_535, 65_535)),
    "a BMP of 2**30 by 2**30": ("x.bmp", _bmp(1 << 30, 1 << 30)),
    "a BMP of a negative width": ("x.bmp", _bmp(-5, 5)),
    "a TIFF without end": ("x.tif", b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8)),
    "an SVG of entities": ("x.svg", b'<!DOCTYPE s [<!ENTITY a "aaaa">]><svg>&a;</svg>'),
    "garbage": ("x.png", bytes(range(256)) * 10),
    "nothing": ("x.png", b""),
}


def _image(name: str, raw: bytes) -> Callable[[Place], None]:
    def make(place: Place) -> None:
        place.write(name, raw)
        place.recipe(RECIPE.replace("NAME", name))

    return make


CASES: list[Case] = cases("image", {title: _image(*image) for title, image in IMAGES.items()}, errors=2, harmless=True)
