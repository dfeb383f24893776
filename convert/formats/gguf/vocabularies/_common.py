"""What every kind of vocabulary is made with: its description, the padding of its ids, and checked reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from convert.errors import InputError
from convert.formats.gguf.sentencepiece import CONTROL, UNUSED, USER_DEFINED, Piece
from convert.json_types import JsonObject
from convert.source.companions import Companions

PADDING_SCORE = -10000.0  # below every real token's, as llama.cpp's converter has it
ADDED_SCORE = -1000.0
SPACE = "▁"  # how sentencepiece writes a space

MAX_PADDING = 1_000_000
"""How many more rows an embedding may have than the tokenizer has tokens; config.json is a stranger's."""


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, ready to be written; `pieces[id]` is the token `id`. None where the kind has no such setting."""

    model: str  # tokenizer.ggml.model: gpt2, llama, t5, bert or gemma4
    pre: str  # tokenizer.ggml.pre; empty: the kind has one, which the file does not name
    pieces: tuple[Piece, ...]
    merges: tuple[str, ...] = ()  # gpt2, gemma4
    add_space_prefix: bool | None = None  # llama, t5
    remove_extra_whitespaces: bool | None = None
    character_map: bytes = b""  # t5: sentencepiece's compiled normalization rules
    lowercase: bool | None = None  # bert
    strip_accents: bool | None = None
    add_bos: bool | None = None  # where the file that was read says so itself
    notes: tuple[str, ...] = ()


def added_type(token: JsonObject) -> int:
    """CONTROL for what the tokenizer calls special and what looks it, else USER_DEFINED.

    Tokens such as <|fim_prefix|> are not `special` in many tokenizers, yet must not be made from a user's text; so
    llama.cpp and its converter take everything between <| and |> for a control token.
    """
    text = token["content"]
    looks = (text.startswith("<|") and text.endswith("|>")) or (text.startswith("<｜") and text.endswith("｜>"))
    return CONTROL if token.get("special") is True or looks else USER_DEFINED


def padded(pieces: Mapping[int, Piece], vocab_size: int, where: str) -> tuple[Piece, ...]:
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
    for number, (text, _, _) in sorted(pieces.items()):
        if text in taken:
            raise InputError(where, f"tokens {taken[text]} and {number} are both {text!r}", "one id a text")
        if not text:
            raise InputError(where, f"token {number} is empty", "a text")
        taken[text] = number
    return tuple(pieces.get(number) or _padding(number, taken) for number in range(vocab_size))


def _padding(number: int, taken: Mapping[str, int]) -> Piece:
    """What stands for an id without a token, by a name that no token has."""
    name = f"[PAD{number}]"
    while name in taken:
        name = f"[{name}]"
    return Piece(name, PADDING_SCORE, UNUSED)


def an_object(parent: JsonObject, key: str, where: str) -> JsonObject:
    """`parent[key]`, an object. Raises InputError for anything else."""
    value = parent.get(key)
    if not isinstance(value, Mapping):
        raise InputError(where, f"{key} is {str(value)[:40]!r}", "an object")
    return value


def place(companions: Companions, name: str) -> str:
    """Where the companion `name` lies, for a message."""
    return str(companions.files.get(name, name))
