"""What llama.cpp is known not to do with an encoder's text, and the text out of its reach."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from functools import partial

NOTE = (
    "an encoder's tokenizer on llama.cpp reads otherwise words of more than 100 characters, signs that combine with "
    "the letter before, control characters, spaces that are many or not ASCII, and those beside a token that swallows "
    "them (<mask>): encoded alike without them"
)
_LONG = re.compile(r"(\w{100})\w+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ODD_SPACES = re.compile(r"[^\S\x00-\x7f]")
_MANY_SPACES = re.compile(r"\s+")


def simpler(text: str, added: Collection[str]) -> Iterator[str]:
    """The text without one kind of what is read otherwise, then without any; `added` are the tokenizer's own tokens."""
    names = "|".join(map(re.escape, added))
    beside = partial(re.sub, rf"\s*({names})\s*", r"\1") if names else str
    whole = text
    for step in (_short, _unmarked, _composed, _printable, _spaced, beside):
        whole = step(whole)
        yield step(text)
    yield whole


def _short(text: str) -> str:
    return _LONG.sub(r"\1", text)


def _unmarked(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.category(c).startswith("M"))


def _composed(text: str) -> str:
    return unicodedata.normalize("NFKC", text)


def _printable(text: str) -> str:
    return _CONTROL.sub("", text)


def _spaced(text: str) -> str:
    return _MANY_SPACES.sub(" ", _ODD_SPACES.sub(" ", text)).strip()
