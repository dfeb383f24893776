"""The tokenizer of a GGUF file: the `tokenizer.*` metadata, made from a model's companions.

Two kinds are written, by the names the format has for them:

    gpt2     byte-level BPE: tokens, types, merges, and the name of a pre-tokenizer
    llama    sentencepiece BPE: tokens, types, scores; from tokenizer.model, or from a tokenizer.json made of one

What a tokenizer says that llama.cpp has no place for is a note, not an error: the validation measures what it costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from convert.companions import TOKENIZER_BYTES, Companions, read_text
from convert.errors import InputError, Problem
from convert.gguf import pretokenizers, special_tokens
from convert.gguf.fields import Field
from convert.gguf.sentencepiece import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    read_sentencepiece,
)

PADDING_SCORE = -10000.0  # below every real token's, as llama.cpp's converter has it
ADDED_SCORE = -1000.0
SPACE = "▁"  # how sentencepiece writes a space

MAX_PADDING = 1_000_000
"""How many more rows an embedding may have than the tokenizer has tokens; config.json is a stranger's."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, ready to be written; `pieces[id]` is the token `id`."""

    model: str  # tokenizer.ggml.model: gpt2 or llama
    pre: str  # tokenizer.ggml.pre
    pieces: tuple[Piece, ...]
    merges: tuple[str, ...] = ()  # gpt2
    add_space_prefix: bool | None = None  # llama
    remove_extra_whitespaces: bool | None = None
    notes: tuple[str, ...] = ()


def vocabulary_metadata(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[Field]:
    """Every `tokenizer.*` field of the GGUF file.

    `vocab_size` is the number of rows of the token embedding; tokens the tokenizer does not have become [PAD<id>].
    `pre_tokenizer` names llama.cpp's pre-tokenizer where the tokenizer's own is not recognized.

    Raises InputError for a tokenizer that is broken or of a kind that cannot be written yet.
    """
    vocabulary = read_vocabulary(companions, vocab_size, pre_tokenizer)
    pieces = vocabulary.pieces
    fields = [
        Field.string("tokenizer.ggml.model", vocabulary.model),
        Field.string("tokenizer.ggml.pre", vocabulary.pre),
        Field.strings("tokenizer.ggml.tokens", (piece.text for piece in pieces)),
    ]
    if vocabulary.model == "llama":
        fields.append(Field.float32s("tokenizer.ggml.scores", (piece.score for piece in pieces)))
    fields.append(Field.int32s("tokenizer.ggml.token_type", (piece.type for piece in pieces)))
    if vocabulary.model == "gpt2":
        fields.append(Field.strings("tokenizer.ggml.merges", vocabulary.merges))
    for key in ("add_space_prefix", "remove_extra_whitespaces"):
        value = getattr(vocabulary, key)
        if value is not None:
            fields.append(Field.boolean(f"tokenizer.ggml.{key}", value))
    return [*fields, *_specials(companions, vocabulary).fields(), *_template_fields(companions.chat_templates)]


def check_vocabulary(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[Problem]:
    """Why the tokenizer cannot be written; empty when it can."""
    try:
        _specials(companions, read_vocabulary(companions, vocab_size, pre_tokenizer))
    except InputError as error:
        return [error.problem]
    return []


def vocabulary_notes(companions: Companions, vocab_size: int, *, pre_tokenizer: str | None = None) -> list[str]:
    """What the tokenizer does that llama.cpp will not, one line each. Raises InputError as vocabulary_metadata does."""
    vocabulary = read_vocabulary(companions, vocab_size, pre_tokenizer)
    named = [p.text for p in vocabulary.pieces if p.type == NORMAL and p.text in special_tokens.ENDS_BY_TEXT]
    return [
        *vocabulary.notes,
        *_specials(companions, vocabulary).notes,
        *_strip_notes(companions),
        *(f"llama.cpp takes the ordinary token {text!r} for an end of text, wherever a text has it" for text in named),
    ]


def read_vocabulary(companions: Companions, vocab_size: int, pre_tokenizer: str | None = None) -> Vocabulary:
    """The tokenizer of `companions` with exactly `vocab_size` tokens. Raises InputError."""
    tokenizer = companions.tokenizer_json
    if tokenizer is not None:
        model = _object(tokenizer, "model", _where(companions, "tokenizer.json"))
        kind = model.get("type", "BPE" if "merges" in model else None)
        if kind == "BPE" and _is_byte_level(tokenizer):
            return _byte_level(companions, vocab_size, pre_tokenizer)
        if kind == "BPE" and model.get("byte_fallback") is True:
            return _sentencepiece(companions, vocab_size)
        raise InputError(
            _where(companions, "tokenizer.json"),
            f"a {kind} tokenizer without byte-level pre-tokenizer or byte fallback",
            "byte-level BPE or sentencepiece BPE; WordPiece, Unigram and others are not supported yet",
        )
    if companions.sentencepiece is not None:
        return _sentencepiece(companions, vocab_size)
    if "vocab.json" in companions.files and "merges.txt" in companions.files:
        return _byte_level(companions, vocab_size, pre_tokenizer)
    raise InputError("tokenizer", "none found", "tokenizer.json, tokenizer.model, or vocab.json with merges.txt")


# --- byte-level BPE ---------------------------------------------------------------------------------------------------


def _is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """Whether tokens are spelled in the 256 characters that stand for bytes (Ġ is a space)."""
    parts = [
        *pretokenizers.flat(tokenizer.get("pre_tokenizer"), "pretokenizers"),
        *pretokenizers.flat(tokenizer.get("decoder"), "decoders"),
    ]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _byte_level(companions: Companions, vocab_size: int, override: str | None) -> Vocabulary:
    tokenizer = companions.tokenizer_json
    if tokenizer is not None:
        where = _where(companions, "tokenizer.json")
        pre = pretokenizers.recognize(tokenizer, override, where)
        model = _object(tokenizer, "model", where)
        _refuse_affixes(model, where)
        merges = _merges(model.get("merges"), where)
    else:
        where = _where(companions, "vocab.json")
        pre = _pre_tokenizer_of_class(companions, override)
        merges = _merges_txt(companions)
    texts: dict[int, Piece] = {}
    for text, number in companions.token_ids.items():
        if number in texts and number not in companions.added_tokens:
            raise InputError(where, f"id {number} is both {texts[number].text!r} and {text!r}")
        texts[number] = Piece(text)
    for number, token in companions.added_tokens.items():
        texts[number] = Piece(token["content"], type=_added_type(token))
    return Vocabulary("gpt2", pre.name, _padded(texts, vocab_size, where), merges, notes=pre.notes)


def _refuse_affixes(model: Mapping[str, Any], where: str) -> None:
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise InputError(where, f"{key} is {model[key]!r}", "none: llama.cpp's byte-level BPE has no such thing")


def _pre_tokenizer_of_class(companions: Companions, override: str | None) -> pretokenizers.PreTokenizer:
    """For vocab.json and merges.txt alone, where the pipeline is in the code of the class."""
    name = str(companions.tokenizer_config.get("tokenizer_class", "")).removesuffix("Fast")
    known = override or pretokenizers.CLASSES.get(name)
    if known is None:
        raise InputError(
            _where(companions, "tokenizer_config.json"),
            f"tokenizer_class {name!r} and no tokenizer.json: its pre-tokenizer is not known here",
            f"one of {', '.join(pretokenizers.CLASSES)}",
            "name it with `pre_tokenizer: <name>`, or save the tokenizer with transformers to get a tokenizer.json",
        )
    return pretokenizers.PreTokenizer(known)


def _merges(merges: object, where: str) -> tuple[str, ...]:
    """`left right` of every merge; tokenizer.json has them so, or as pairs. Rank is place."""
    if not isinstance(merges, list):
        raise InputError(where, f"merges are {str(merges)[:40]!r}", "a list")
    lines = []
    for rank, merge in enumerate(merges):
        pair = isinstance(merge, list) and len(merge) == 2 and all(isinstance(part, str) for part in merge)
        line = " ".join(merge) if pair else merge
        # one space, between two tokens; a space inside a token could not be told from it
        if not isinstance(line, str) or line.count(" ") != 1 or line[0] == " " or line[-1] == " ":
            raise InputError(where, f"merge {rank} is {str(merge)[:60]!r}", "two tokens without spaces")
        lines.append(line)
    return tuple(lines)


def _merges_txt(companions: Companions) -> tuple[str, ...]:
    path = companions.files["merges.txt"]
    lines = read_text(path, TOKENIZER_BYTES).split("\n")
    start = 1 if lines and lines[0].startswith("#version") else 0
    return _merges([line.rstrip("\r") for line in lines[start:] if line.strip()], str(path))


# --- sentencepiece ----------------------------------------------------------------------------------------------------


def _sentencepiece(companions: Companions, vocab_size: int) -> Vocabulary:
    notes: list[str] = []
    remove_extra_whitespaces: bool | None = None
    add_space_prefix = True
    if companions.sentencepiece is not None:
        where = str(companions.sentencepiece)
        model = read_sentencepiece(companions.sentencepiece)
        if model.model_type != BPE:
            raise InputError(where, "a unigram, word or character model", "BPE; the others are not supported yet")
        pieces = dict(enumerate(model.pieces))
        add_space_prefix = model.add_dummy_prefix
        remove_extra_whitespaces = model.remove_extra_whitespaces
        if model.character_map:
            notes.append("llama.cpp does not apply tokenizer.model's normalization: some characters encode otherwise")
        if remove_extra_whitespaces:
            notes.append("llama.cpp keeps runs of spaces that tokenizer.model folds into one")
        _check_agreement(companions, pieces, where)
    else:
        where = _where(companions, "tokenizer.json")
        pieces = _pieces_of_json(companions, where)
    if companions.tokenizer_json is not None:
        add_space_prefix, prefix_notes = _space_prefix(companions.tokenizer_json, where)
        notes += prefix_notes
    for number, token in companions.added_tokens.items():
        content, known = token["content"], pieces.get(number)
        if known is None or known.text != content or known.type == NORMAL:  # else the model file says more about it
            kind = _added_type(token)
            # llama.cpp looks for user-defined tokens in the text before it writes spaces as U+2581
            text = content.replace(SPACE, " ") if kind == USER_DEFINED else content
            pieces[number] = Piece(text, ADDED_SCORE, kind)
    return Vocabulary(
        "llama",
        "default",
        _padded(pieces, vocab_size, where),
        add_space_prefix=add_space_prefix,
        remove_extra_whitespaces=remove_extra_whitespaces,
        notes=tuple(notes),
    )


def _check_agreement(companions: Companions, pieces: Mapping[int, Piece], where: str) -> None:
    """tokenizer.json and tokenizer.model, where both exist, must be the same tokenizer."""
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
    model = _object(companions.tokenizer_json or {}, "model", where)
    order: dict[str, int] = {}
    for merge in _spm_merges(model.get("merges"), where):
        order.setdefault(merge, len(order))
    unknown = model.get("unk_token")
    pieces: dict[int, Piece] = {}
    for text, number in sorted(companions.token_ids.items(), key=lambda item: item[1]):
        if text == unknown:
            pieces[number] = Piece(text, 0.0, UNKNOWN)
        elif number in companions.added_tokens:
            if text in _object(model, "vocab", where):  # <s>: in the model file too; the others came later
                pieces[number] = Piece(text, 0.0, _added_type(companions.added_tokens[number]))
        elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            pieces[number] = Piece(text, 0.0, BYTE)
        else:
            pieces[number] = Piece(text, -float(order.setdefault(text, len(order))), NORMAL)
    return pieces


def _spm_merges(merges: object, where: str) -> Iterable[str]:
    """The piece every merge makes. Pieces have no spaces in them, so `left right` is as clear as a pair."""
    return (merge.replace(" ", "", 1) for merge in _merges(merges, where))


def _space_prefix(tokenizer: Mapping[str, Any], where: str) -> tuple[bool, list[str]]:
    """Whether a space goes before the text, by the pipeline of tokenizer.json.

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


# --- both kinds -------------------------------------------------------------------------------------------------------


def _added_type(token: Mapping[str, Any]) -> int:
    """CONTROL for what the tokenizer calls special and what looks it, else USER_DEFINED.

    Tokens such as <|fim_prefix|> are not `special` in many tokenizers, yet must not be made from a user's text; so
    llama.cpp and its converter take everything between <| and |> for a control token.
    """
    text = token["content"]
    looks = (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<｜") and text.endswith("｜>"))
    return CONTROL if token.get("special") is True or looks else USER_DEFINED


def _padded(pieces: Mapping[int, Piece], vocab_size: int, where: str) -> tuple[Piece, ...]:
    """The pieces by id, the gaps and the end filled with [PAD<id>]; texts all different, as llama.cpp insists."""
    last = max(pieces, default=-1)
    if last >= vocab_size:
        raise InputError(
            where,
            f"token {last}, {pieces[last].text!r}, where the embedding has {vocab_size} rows",
            f"ids below {vocab_size}",
            "give the tokenizer that belongs to these weights, or resize the embedding",
        )
    if vocab_size - len(pieces) > MAX_PADDING:
        raise InputError(where, f"{len(pieces)} tokens for an embedding of {vocab_size} rows", "about as many")
    taken: dict[str, int] = {}
    for number, piece in sorted(pieces.items()):
        if piece.text in taken:
            raise InputError(where, f"tokens {taken[piece.text]} and {number} are both {piece.text!r}", "one id a text")
        if not piece.text:
            raise InputError(where, f"token {number} is empty", "a text")
        taken[piece.text] = number
    filled = []
    for number in range(vocab_size):
        name = f"[PAD{number}]"
        while number not in pieces and name in taken:
            name = f"[{name}]"
        filled.append(pieces.get(number) or Piece(name, PADDING_SCORE, UNUSED))
    return tuple(filled)


def _specials(companions: Companions, vocabulary: Vocabulary) -> special_tokens.SpecialTokens:
    texts = {piece.text: number for number, piece in enumerate(vocabulary.pieces) if piece.type != UNUSED}
    unknown = next((n for n, piece in enumerate(vocabulary.pieces) if piece.type == UNKNOWN), None)
    return special_tokens.find(companions, texts, unknown)


def _template_fields(templates: Mapping[str, str]) -> list[Field]:
    """tokenizer.chat_template, and the named ones under their names, which tokenizer.chat_templates lists."""
    fields = [Field.string("tokenizer.chat_template", templates["default"])] if "default" in templates else []
    named = {
        "".join(c if c.isascii() and c.isalnum() else "_" for c in name): text
        for name, text in templates.items()
        if name != "default"
    }
    if named:
        fields.append(Field.strings("tokenizer.chat_templates", named))
        fields += [Field.string(f"tokenizer.chat_template.{name}", text) for name, text in named.items()]
    return fields


def _strip_notes(companions: Companions) -> list[str]:
    """llama.cpp has no field for tokens that swallow the spaces beside them."""
    names = [t["content"] for t in companions.added_tokens.values() if t.get("lstrip") or t.get("rstrip")]
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return [f"llama.cpp keeps the spaces beside {shown}, which the tokenizer removes"]


def _object(parent: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    value = parent.get(key)
    if not isinstance(value, Mapping):
        raise InputError(where, f"{key} is {str(value)[:40]!r}", "an object")
    return value


def _where(companions: Companions, name: str) -> str:
    return str(companions.files.get(name, name))
