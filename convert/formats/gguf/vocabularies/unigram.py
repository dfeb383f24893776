"""Sentencepiece unigram (`t5`): tokens, types, log probabilities, and the compiled rules that normalize a text.

From tokenizer.model (or spiece.model, sentencepiece.bpe.model), or from a tokenizer.json whose model is Unigram.
Keys as llama.cpp's converter writes them (conversion/t5.py, conversion/bert.py: _xlmroberta_set_vocab).
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Mapping

from convert.errors import InputError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import NORMAL, UNKNOWN, Piece, SentencePieceModel
from convert.formats.gguf.vocabularies._common import Vocabulary, added_type, an_object, padded, place
from convert.formats.gguf.vocabularies.merged_pieces import check_agreement, space_prefix, with_added
from convert.json_types import JsonObject
from convert.source.companions import Companions

MAX_MAP = 8 << 20  # bytes of compiled rules; sentencepiece's own are 240 kB

_NO_BYTES = "llama.cpp's unigram has no byte fallback: a character without a token becomes the unknown token"


def unigram(companions: Companions, vocab_size: int, model: SentencePieceModel | None) -> Vocabulary:
    """The vocabulary, from `model` where there is a sentencepiece file. Raises InputError."""
    if model is None:
        return _of_json(companions, vocab_size)
    where = str(companions.sentencepiece)
    pieces = dict(enumerate(model.pieces))
    check_agreement(companions, pieces, where)
    if companions.tokenizer_json is not None and _shifted(companions, pieces):
        return _of_json(companions, vocab_size)
    notes = [_NO_BYTES] if any(piece.text == "<0x00>" for piece in model.pieces) else []
    return Vocabulary(
        "t5",
        "default",
        padded(with_added(companions, pieces), vocab_size, where),
        add_space_prefix=model.add_dummy_prefix,
        remove_extra_whitespaces=model.remove_extra_whitespaces,
        character_map=_checked_map(model.character_map, where),
        notes=tuple(notes),
    )


def _shifted(companions: Companions, pieces: Mapping[int, Piece]) -> bool:
    """Whether tokenizer.json has ids the file does not: XLM-RoBERTa's class moves every piece by one."""
    ids = companions.token_ids
    return any(ids.get(piece.text, number) != number for number, piece in pieces.items() if piece.type == NORMAL)


def _of_json(companions: Companions, vocab_size: int) -> Vocabulary:
    where = place(companions, "tokenizer.json")
    tokenizer = companions.tokenizer_json or {}
    model = an_object(tokenizer, "model", where)
    unknown = model.get("unk_id")
    pieces: dict[int, Piece] = {}
    for number, (text, score) in enumerate(_entries(model.get("vocab"), where)):
        token = companions.added_tokens.get(number)
        kind = UNKNOWN if number == unknown else NORMAL if token is None else added_type(token)
        pieces[number] = Piece(text, score, kind)
    if not isinstance(unknown, int) or pieces.get(unknown) is None:
        raise InputError(where, f"unk_id is {str(unknown)[:40]!r}", "the id of a token")
    add_space_prefix, notes = space_prefix(tokenizer, where)
    character_map, folds, more = _normalizer(tokenizer, where)
    if model.get("byte_fallback") is True:
        notes.append(_NO_BYTES)
    return Vocabulary(
        "t5",
        "default",
        padded(with_added(companions, pieces), vocab_size, where),
        add_space_prefix=add_space_prefix,
        remove_extra_whitespaces=folds,
        character_map=character_map,
        notes=(*notes, *more),
    )


def _entries(vocabulary: object, where: str) -> list[tuple[str, float]]:
    """[text, log probability] of every id. Raises InputError."""
    if not isinstance(vocabulary, list) or not vocabulary:
        raise InputError(where, f"vocab is {str(vocabulary)[:40]!r}", "a list of [token, score]")
    entries = []
    for number, entry in enumerate(vocabulary):
        text, score = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        number_like = isinstance(score, int | float) and not isinstance(score, bool)
        if not isinstance(text, str) or score is None or not number_like or not abs(score) < 1e30:  # nor NaN
            raise InputError(where, f"token {number} is {str(entry)[:60]!r}", "[text, score]")
        entries.append((text, float(score)))
    return entries


def _normalizer(tokenizer: JsonObject, where: str) -> tuple[bytes, bool, list[str]]:
    """The compiled rules, whether runs of spaces become one, and notes on what llama.cpp will not do."""
    rules, folds, notes = b"", False, []
    for part in pretokenizers.flat(tokenizer.get("normalizer"), "normalizers", where):
        kind, pattern = part.get("type"), part.get("pattern")
        if kind == "Precompiled":
            rules = _decoded(part.get("precompiled_charsmap"), where)
        elif kind == "Replace" and isinstance(pattern, Mapping) and pattern.get("Regex") == " {2,}":
            folds = True
        elif kind == "Strip":
            folds = folds or (part.get("strip_left") is True and part.get("strip_right") is True)
        elif not (kind == "Replace" and isinstance(pattern, Mapping) and pattern.get("String") == " "):
            notes.append(f"llama.cpp does not apply the tokenizer's normalizer {kind}")
    for part in pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers", where):
        if part.get("type") == "WhitespaceSplit":
            folds = True
            notes.append("llama.cpp splits at ASCII spaces alone, the tokenizer at every kind of space")
    return rules, folds, notes


def _decoded(text: object, where: str) -> bytes:
    if text is None:
        return b""
    if not isinstance(text, str) or len(text) > 2 * MAX_MAP:
        raise InputError(where, f"precompiled_charsmap is {str(text)[:40]!r}", "base64 text")
    try:
        return _checked_map(base64.b64decode(text, validate=True), where)
    except binascii.Error as error:
        raise InputError(where, f"precompiled_charsmap is not base64 ({error})", "base64 text") from error


def _checked_map(rules: bytes, where: str) -> bytes:
    """`rules` where their parts are as long as they say: uint32 size, a trie of that size, replacements ending in NUL.

    llama.cpp follows them without more checks (src/llama-vocab.cpp, llm_tokenizer_ugm).
    """
    if not rules:
        return rules
    size = struct.unpack_from("<I", rules)[0] if len(rules) >= 4 else 0
    if len(rules) > MAX_MAP or size % 4 or size < 1024 or 4 + size >= len(rules) or rules[-1]:
        raise InputError(where, f"normalization rules of {len(rules)} bytes with a trie of {size}", "a compiled map")
    return rules
