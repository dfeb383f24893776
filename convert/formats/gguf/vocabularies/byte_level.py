"""Byte-level BPE (`gpt2`): tokens, types, merges, and the name of a pre-tokenizer.

From tokenizer.json, or from vocab.json with merges.txt. Tokens are spelled in the 256 characters that stand for bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from convert.errors import InputError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import Piece
from convert.formats.gguf.vocabularies._common import Vocabulary, added_type, an_object, padded, place
from convert.json_types import JsonObject
from convert.source.companions import TOKENIZER_BYTES, Companions, read_text


def is_byte_level(tokenizer: JsonObject) -> bool:
    """Whether tokens are spelled in the 256 characters that stand for bytes (Ġ is a space)."""
    parts = [
        *pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers"),
        *pretokenizers.flat(tokenizer.get("decoder"), "decoders"),
    ]
    return any(part.get("type") == "ByteLevel" for part in parts)


def byte_level(companions: Companions, vocab_size: int, override: str | None) -> Vocabulary:
    """The vocabulary; `override` names the pre-tokenizer. Raises InputError."""
    tokenizer = companions.tokenizer_json
    if tokenizer is not None:
        where = place(companions, "tokenizer.json")
        pre = pretokenizers.recognize(tokenizer, override, where)
        model = an_object(tokenizer, "model", where)
        _refuse_affixes(model, where)
        merges = read_merges(model.get("merges"), where)
    else:
        where = place(companions, "vocab.json")
        pre = pre_tokenizer_of_class(companions, override)
        merges = _merges_txt(companions)
    pieces: dict[int, Piece] = {}
    added = companions.added_tokens
    for text, number in companions.token_ids.items():
        if number in pieces and number not in added:
            raise InputError(where, f"id {number} is both {pieces[number].text!r} and {text!r}")
        pieces[number] = Piece(text)
    for number, token in added.items():
        pieces[number] = Piece(token["content"], type=added_type(token))
    return Vocabulary("gpt2", pre.name, padded(pieces, vocab_size, where), merges, notes=pre.notes)


def _refuse_affixes(model: JsonObject, where: str) -> None:
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise InputError(where, f"{key} is {model[key]!r}", "none: llama.cpp's byte-level BPE has no such thing")


def pre_tokenizer_of_class(companions: Companions, override: str | None) -> pretokenizers.PreTokenizer:
    """By the tokenizer's class: where there is no tokenizer.json, the pipeline is in its code. Raises InputError."""
    name = str(companions.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    known = override or pretokenizers.CLASSES.get(name)
    if known is None:
        raise InputError(
            place(companions, "tokenizer_config.json"),
            f"tokenizer_class {name!r} and no tokenizer.json: its pre-tokenizer is not known here",
            f"one of {', '.join(pretokenizers.CLASSES)}",
            "name it with `pre_tokenizer: <name>`, or save the tokenizer with transformers to get a tokenizer.json",
        )
    return pretokenizers.PreTokenizer(known)


def read_merges(merges: object, where: str) -> tuple[str, ...]:
    """`left right` of every merge; tokenizer.json has them so, or as pairs. Rank is place."""
    if not isinstance(merges, list):
        raise InputError(where, f"merges are {str(merges)[:40]!r}", "a list")
    if pairs := _good_pairs(merges):
        return pairs
    lines = []
    for rank, merge in enumerate(merges):
        line = merge
        if isinstance(merge, list) and len(merge) == 2 and isinstance(merge[0], str) and isinstance(merge[1], str):
            line = f"{merge[0]} {merge[1]}"
        # one space, between two tokens; a space inside a token could not be told from it
        if not isinstance(line, str) or line.count(" ") != 1 or line[0] == " " or line[-1] == " ":
            raise InputError(where, f"merge {rank} is {str(merge)[:60]!r}", "two tokens without spaces")
        lines.append(line)
    return tuple(lines)


def _good_pairs(merges: Sequence[object]) -> tuple[str, ...]:
    """The lines of merges that are all pairs without a space, seen at once; () where only a look at each can tell."""
    if set(map(type, merges)) != {list} or set(map(len, merges)) != {2}:  # type: ignore[arg-type]  # all are lists
        return ()
    try:
        lines = tuple(map(" ".join, merges))  # type: ignore[arg-type]
    except TypeError:
        return ()
    text = "\n" + "\n".join(lines) + "\n"
    return lines if text.count(" ") == len(lines) and "\n " not in text and " \n" not in text else ()


def _merges_txt(companions: Companions) -> tuple[str, ...]:
    path = companions.files["merges.txt"]
    lines = read_text(path, TOKENIZER_BYTES).split("\n")
    start = 1 if lines and lines[0].startswith("#version") else 0
    return read_merges([line.rstrip("\r") for line in lines[start:] if line.strip()], str(path))
