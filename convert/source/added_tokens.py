"""Added tokens and their ids: what a checkpoint's files say, and what its tokenizer gives.

The tokenizers library does not believe the id that tokenizer.json has for an added token. A token that the vocabulary
has keeps the vocabulary's id; every other gets the next free one, in the order of the file (added_vocabulary.rs,
add_tokens). transformers 5 takes the tokens of tokenizer_config.json's added_tokens_decoder instead, in the order of
their ids; transformers 4 took both. So a token after a gap has another id than its files say, and that is the one the
model was trained with and is served by.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.untrusted import shown

Said: TypeAlias = tuple[int, JsonObject]
"""An added token, and the id that its file has for it."""


@dataclass(frozen=True)
class Added:
    """Id -> added token, in order of id; and a line about each that its files have under another id."""

    tokens: Mapping[int, JsonObject]
    notes: tuple[str, ...] = ()


def settle(vocabulary: object, in_json: Sequence[Said], in_config: Sequence[Said], where: str) -> Added:
    """The added tokens of tokenizer.json and of added_tokens_decoder by the ids that the tokenizer gives them.

    `vocabulary` is that of tokenizer.json's model, `where` the file. Raises InputError for a token that has two ids in
    one file, and for one on whose id the libraries differ.
    """
    _refuse_twice(in_json, where)
    known, ordered = _vocabulary(vocabulary), sorted(in_config, key=lambda said: said[0])
    both = _assigned(known, _texts([*in_json, *ordered]))
    texts = {number: token["content"] for number, token in in_json}
    for number, token in in_config:
        if texts.get(number, token["content"]) != token["content"]:
            raise _clash(where, number, texts[number], token["content"])
    if all(both[token["content"]] == number for number, token in [*in_json, *in_config]):
        return Added(dict(sorted(dict([*in_json, *in_config]).items())))
    alone = _assigned(known, _texts(ordered))
    tokens: dict[int, JsonObject] = {}
    notes = []
    for number, token in [*in_json, *ordered]:
        given = both[token["content"]]
        if alone.get(token["content"], given) != given:
            raise _differ(where, token, number, (given, alone.get(token["content"])))
        tokens[given] = token
        if given != number:
            named = shown(token["content"])
            notes.append(
                f"added token {named} is {number} in its file, and {given} to transformers: {given} is written"
            )
    return Added(dict(sorted(tokens.items())), tuple(dict.fromkeys(notes)))


def _refuse_twice(in_json: Iterable[Said], where: str) -> None:
    first: dict[str, int] = {}
    for number, token in in_json:
        other = first.setdefault(token["content"], number)
        if other != number:
            raise InputError(where, f"tokens {other} and {number} are both {shown(token['content'])}", "one id a text")


def _vocabulary(vocabulary: object) -> Mapping[str, int]:
    """Text -> id of a model's own tokens; a unigram model has a list of pairs."""
    if isinstance(vocabulary, Mapping):
        return vocabulary
    pairs = vocabulary if isinstance(vocabulary, list) else []
    return {str(pair[0]): number for number, pair in enumerate(pairs) if isinstance(pair, list) and pair}


def _texts(tokens: Iterable[Said]) -> list[str]:
    return [str(token["content"]) for _, token in tokens]


def _assigned(known: Mapping[str, int], texts: Iterable[str]) -> dict[str, int]:
    """Text -> the id that the tokenizers library gives it."""
    ids: dict[str, int] = {}
    size, highest = len(known), -1
    for text in texts:
        if text in ids:
            continue
        ids[text] = known[text] if text in known else max(highest + 1, size)
        highest = max(highest, ids[text])
    return ids


REMEDY = (
    "save the tokenizer again with the transformers it was made with (`tokenizer.save_pretrained(…)`), so that "
    "tokenizer.json and added_tokens_decoder agree"
)


def _clash(where: str, number: int, text: str, other: str) -> InputError:
    got = f"id {number} is {shown(text)} here and {shown(other)} in tokenizer_config.json's added_tokens_decoder"
    return InputError(where, got, "one token an id", REMEDY)


def _differ(where: str, token: JsonObject, number: int, ids: tuple[int, int | None]) -> InputError:
    named, other = shown(token["content"]), "none" if ids[1] is None else ids[1]
    got = (
        f"added token {named} is said to be {number}; the tokenizers library makes it {ids[0]}, transformers 5 {other}"
    )
    return InputError(where, got, "one id", REMEDY)
