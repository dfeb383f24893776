"""The text of a token, from the way its vocabulary spells it."""

from __future__ import annotations

import re
from functools import cache

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's spelling of a byte


@cache
def _bytes() -> dict[str, int]:
    """Character -> byte, in vocabularies of the GPT-2 kind: printable bytes are Latin-1, the others begin at U+0100."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def spelled(piece: str) -> str:
    """The text behind a vocabulary's entry: `Ġthe` and `▁the` are " the", `<0x0A>` is a line feed.

    Which kind a vocabulary is need not be known: what is not UTF-8 when it is read as bytes was not meant as bytes, but
    where it has characters that stand for unprintable ones. Then it is a part of a character, written as ‹F0 9F›.
    """
    if match := _BYTE.fullmatch(piece):
        return _text(bytes([int(match[1], 16)]))
    table = _bytes()
    if all(c in table for c in piece):
        raw = bytes(table[c] for c in piece)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return _text(raw) if any(ord(c) > 255 for c in piece) else piece
    return piece.replace("▁", " ")


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return f"‹{raw.hex(' ').upper()}›"
