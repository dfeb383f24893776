"""Reads a sentencepiece model file (tokenizer.model): the pieces and the few settings GGUF has a place for.

The file is one protobuf message. It is parsed here, without the protobuf and sentencepiece packages, because it comes
from strangers: every length is checked against what is left of the file before it is believed.

    ModelProto       1: SentencePiece, repeated      2: TrainerSpec      3: NormalizerSpec
    SentencePiece    1: text    2: score, float32    3: type
    TrainerSpec      3: model type, 1 = unigram, 2 = BPE
    NormalizerSpec   2: precompiled character map    3: add_dummy_prefix    4: remove_extra_whitespaces

Source: sentencepiece's src/sentencepiece_model.proto.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from convert.errors import InputError
from convert.source.untrusted import read_bytes

MAX_BYTES = 64 << 20  # the largest in use are about 5 MB
MAX_PIECES = 2_000_000

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of a piece; GGUF's tokenizer.ggml.token_type uses the same numbers."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Piece(NamedTuple):
    """One token: its text, with U+2581 for a space, its score (higher merges first), its type."""

    text: str
    score: float = 0.0
    type: int = NORMAL


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says; a piece's place is its token id."""

    pieces: tuple[Piece, ...]
    model_type: int = UNIGRAM
    add_dummy_prefix: bool = True  # a space before the text
    remove_extra_whitespaces: bool = True
    character_map: bytes = b""  # sentencepiece's compiled normalization rules; empty: text is left as it is


class _Malformed(Exception):
    """The bytes are not the message they should be."""


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """The model in `path`. Raises InputError for a file that is too large or is not a sentencepiece model."""
    data = read_bytes(path, MAX_BYTES)
    try:
        model = _model(memoryview(data))
    except (_Malformed, UnicodeDecodeError) as error:
        raise InputError(
            str(path),
            f"not a sentencepiece model ({error})",
            "the protobuf file sentencepiece writes",
            "a file fetched without git-lfs is a text of three lines: fetch it again",
        ) from error
    if not model.pieces:
        raise InputError(str(path), "a sentencepiece model without pieces")
    return model


def _model(data: memoryview) -> SentencePieceModel:
    pieces: list[Piece] = []
    settings: dict[str, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_message(value)))
            if len(pieces) > MAX_PIECES:
                raise _Malformed(f"more than {MAX_PIECES:,} pieces")
        elif number == 2:
            settings.update((f"trainer {n}", v) for n, v in _fields(_message(value)) if isinstance(v, int))
        elif number == 3:
            for n, v in _fields(_message(value)):
                settings[f"normalizer {n}"] = bytes(v) if isinstance(v, memoryview) else v
    character_map = settings.get("normalizer 2", b"")
    return SentencePieceModel(
        pieces=tuple(pieces),
        model_type=int(settings.get("trainer 3", UNIGRAM)),
        add_dummy_prefix=bool(settings.get("normalizer 3", True)),
        remove_extra_whitespaces=bool(settings.get("normalizer 4", True)),
        character_map=character_map if isinstance(character_map, bytes) else b"",
    )


def _piece(data: memoryview) -> Piece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = str(_message(value), "utf-8")
        elif number == 2 and isinstance(value, memoryview) and len(value) == 4:
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    if kind not in range(NORMAL, BYTE + 1) or math.isnan(score):
        raise _Malformed(f"a piece of type {kind} with score {score}")
    return Piece(text, score, kind)


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value) of one message: an int of a varint, else the bytes."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, value
            continue
        if wire == _BYTES:
            size, position = _varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _Malformed(f"wire type {wire} at byte {position}")
        if number == 0 or size > len(data) - position:
            raise _Malformed(f"field {number} of {size} bytes where {len(data) - position} are left")
        yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            raise _Malformed("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _Malformed("a number of more than ten bytes")


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise _Malformed("a number where a message belongs")
    return value
