"""Sentencepiece BPE (`llama`): tokens, types, scores.

From tokenizer.model, or from a tokenizer.json that was made of one: a piece with the higher score is merged first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from convert.errors import InputError
from convert.formats.gguf import pretokenizers
from convert.formats.gguf.sentencepiece import BYTE, NORMAL, UNKNOWN, USER_DEFINED, Piece, SentencePieceModel
from convert.formats.gguf.vocabularies._common import (
    ADDED_SCORE,
    SPACE,
    Vocabulary,
    added_type,
    an_object,
    padded,
    place,
)
from convert.formats.gguf.vocabularies.byte_level import read_merges
from convert.json_types import JsonObject
from convert.source.companions import Companions

IN_SIGHT = ("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>')
LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")


def merged_pieces(companions: Companions, vocab_size: int, model: SentencePieceModel | None) -> Vocabulary:
    """The vocabulary, from `model` where there is a tokenizer.model. Raises InputError."""
    notes: list[str] = []
    remove_extra_whitespaces: bool | None = None
    add_space_prefix = True
    if model is not None:
        where = str(companions.sentencepiece)
        pieces = dict(enumerate(model.pieces))
        add_space_prefix = model.add_dummy_prefix
        remove_extra_whitespaces = model.remove_extra_whitespaces
        if model.character_map:
            notes.append("llama.cpp does not apply tokenizer.model's normalization: some characters encode differently")
        if remove_extra_whitespaces:
            notes.append("llama.cpp keeps runs of spaces that tokenizer.model folds into one")
        check_agreement(companions, pieces, where)
    else:
        where = place(companions, "tokenizer.json")
        pieces = _pieces_of_json(companions, where)
    if companions.tokenizer_json is not None:
        add_space_prefix, prefix_notes = space_prefix(companions.tokenizer_json, where)
        notes += prefix_notes
        if add_space_prefix and not without_prefix(companions) and has_metaspace(companions.tokenizer_json, where):
            notes.append("llama.cpp puts a space before a text that begins with one too, the tokenizer does not")
    if without_prefix(companions):
        add_space_prefix = False
    return Vocabulary(
        "llama",
        "default",
        padded(with_added(companions, pieces), vocab_size, where),
        add_space_prefix=add_space_prefix,
        remove_extra_whitespaces=remove_extra_whitespaces,
        notes=tuple(notes),
    )


def with_merges(vocabulary: Vocabulary, tokenizer: JsonObject, where: str) -> Vocabulary:
    """The vocabulary as `gemma4` has it: by its merges, and with the tokens in sight that a parser of tools looks for.

    Scores play no part there: all are the same.
    """
    merges = read_merges(an_object(tokenizer, "model", where).get("merges"), where)
    pieces = [
        Piece(piece.text, ADDED_SCORE, USER_DEFINED if piece.text in IN_SIGHT else piece.type)
        for piece in vocabulary.pieces
    ]
    return replace(vocabulary, model="gemma4", pre="", pieces=tuple(pieces), merges=merges, add_space_prefix=False)


def without_prefix(companions: Companions) -> bool:
    """Whether tokenizer_config.json takes away the space before a text that tokenizer.json or tokenizer.model adds.

    transformers 4 and 5 build these classes anew where `add_prefix_space` is false, with no such space anywhere.
    """
    config = companions.tokenizer_config
    return config.get("tokenizer_class") in LLAMA_CLASSES and config.get("add_prefix_space") is False


def with_added(companions: Companions, pieces: Mapping[int, Piece]) -> dict[int, Piece]:
    """The pieces with the added tokens among them, each of the type llama.cpp finds it in the text by."""
    made = dict(pieces)
    for number, token in companions.added_tokens.items():
        content, known = token["content"], made.get(number)
        if known is None or known.text != content or known.type == NORMAL:  # else the model file says more about it
            kind = added_type(token)
            # llama.cpp looks for user-defined tokens in the text before it writes spaces as U+2581
            text = content.replace(SPACE, " ") if kind == USER_DEFINED else content
            made[number] = Piece(text, ADDED_SCORE, kind)
    return made


def check_agreement(companions: Companions, pieces: Mapping[int, Piece], where: str) -> None:
    """tokenizer.json and tokenizer.model, where both exist, must be the same tokenizer. Raises InputError."""
    if companions.tokenizer_json is None:
        return
    for text, number in companions.token_ids.items():
        piece = pieces.get(number)
        if piece is not None and piece.text != text and number not in companions.added_tokens:
            raise InputError(
                where,
                f"token {number} is {piece.text!r} here and {text!r} in tokenizer.json",
                "two files of one tokenizer",
                "remove the one that is not this model's",
            )


def _pieces_of_json(companions: Companions, where: str) -> dict[int, Piece]:
    """Pieces as sentencepiece would have trained them, from a tokenizer.json that was made of its model.

    A BPE model of sentencepiece scores the pieces 0, -1, -2, ... in the order in which they were merged, and the single
    characters after them; the order of the first merge that makes a piece is that order.
    """
    model = an_object(companions.tokenizer_json or {}, "model", where)
    order: dict[str, int] = {}
    for merge in _joined(model.get("merges"), where):
        order.setdefault(merge, len(order))
    unknown = model.get("unk_token")
    pieces: dict[int, Piece] = {}
    for text, number in sorted(companions.token_ids.items(), key=lambda item: item[1]):
        if text == unknown:
            pieces[number] = Piece(text, 0.0, UNKNOWN)
        elif number in companions.added_tokens:
            if text in an_object(model, "vocab", where):  # <s>: in the model file too; the others came later
                pieces[number] = Piece(text, 0.0, added_type(companions.added_tokens[number]))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces[number] = Piece(text, 0.0, BYTE)
        else:
            pieces[number] = Piece(text, -float(order.setdefault(text, len(order))), NORMAL)
    return pieces


def _joined(merges: object, where: str) -> Iterable[str]:
    """The piece every merge makes. Pieces have no spaces in them, so `left right` is as clear as a pair."""
    return (merge.replace(" ", "", 1) for merge in read_merges(merges, where))


def has_metaspace(tokenizer: JsonObject, where: str) -> bool:
    """Whether spaces are written as U+2581 by the pre-tokenizer Metaspace, which puts none before another."""
    return any(
        p.get("type") == "Metaspace" for p in pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers", where)
    )


def space_prefix(tokenizer: JsonObject, where: str) -> tuple[bool, list[str]]:
    """Whether a space goes before the text, by the pipeline of tokenizer.json; and notes.

    llama.cpp puts one at the start and after every special token, which is what the normalizer Prepend does, and the
    pre-tokenizer Metaspace with prepend_scheme "always".
    """
    for part in pretokenizers.flat(tokenizer.get("normalizer"), "normalizers", where):
        if part.get("type") == "Prepend" and part.get("prepend") == SPACE:
            return True, []
    for part in pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers", where):
        if part.get("type") == "Metaspace":
            scheme = part.get("prepend_scheme", "always" if part.get("add_prefix_space", True) else "never")
            if scheme == "first":
                return True, ["llama.cpp puts a space after special tokens inside the text, the tokenizer does not"]
            return scheme == "always", []
    return False, []
