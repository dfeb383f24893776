"""Texts for an encoder: paragraphs and messages, each as the model is given one, with its special tokens around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from validate.runtimes.base import Session
from validate.texts import InputSet, SetEntry, Windows, distinct, tokens_sha256

LEAST_CHARACTERS = 24  # a heading says too little to be told from another
MOST = 128  # texts: all pairs of them are compared, once for each
_PARAGRAPHS = re.compile(r"\n\s*\n")


def passages(reference: Session, sets: Sequence[InputSet], tokens: int, longest: int) -> Windows:
    """Texts of all sets, about `tokens` tokens and MOST texts in all, none of more than `longest` tokens.

    Each set gets the same share of both; what one leaves goes to those behind it.
    """
    made = Windows([], [], [], [])
    for place, (one, name) in enumerate(zip(sets, distinct(sets), strict=True)):
        left = len(sets) - place
        room, count = (tokens - sum(map(len, made.tokens))) // left, (MOST - len(made.tokens)) // left
        found = list[list[int]]()
        for text in _pieces(one):
            if len(found) >= count or sum(map(len, found)) >= room:
                break
            found.append(_encoded(reference, text, longest))
        made.tokens.extend(found)
        made.sets.extend([name] * len(found))
        read = sum(map(len, found))
        made.entries.append(SetEntry(name, one.kind, one.sha256, read, len(found), one.source, tokens_sha256(found)))
    return made


def _pieces(one: InputSet) -> Iterator[str]:
    """The texts of a set, in order, none twice."""
    seen = set[str]()
    for text in _paragraphs(one) if one.kind == "text" else _messages(one):
        if len(text) >= LEAST_CHARACTERS and text not in seen:
            seen.add(text)
            yield text


def _paragraphs(one: InputSet) -> Iterator[str]:
    return (part.strip() for part in _PARAGRAPHS.split(one.text))


def _messages(one: InputSet) -> Iterator[str]:
    for message in (message for talk in one.conversations for message in talk.messages):
        content = message.get("content")
        if isinstance(content, str):
            yield content.strip()


def _encoded(reference: Session, text: str, longest: int) -> list[int]:
    """The ids with what the tokenizer puts around; of a long text the beginning, and what stands behind it."""
    whole = reference.tokenize(text, add_special=True)
    if len(whole) <= longest:
        return whole
    behind = _behind(whole, reference.tokenize(text))
    return [*whole[: longest - behind], *whole[len(whole) - behind :]]


def _behind(whole: list[int], plain: list[int]) -> int:
    """How many tokens the tokenizer puts behind a text."""
    spare = len(whole) - len(plain)
    before = next((i for i in range(spare + 1) if whole[i : i + len(plain)] == plain), spare)
    return max(0, spare - before)
