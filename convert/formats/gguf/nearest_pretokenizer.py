"""The pre-tokenizer of llama.cpp that cuts most like one it has no name for, and a text the two cut differently."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convert.formats.gguf.pretokenizer_table import BYTES, PUNCTUATION_EACH, PUNCTUATION_RUNS, TABLE, Entry, written
from validate.confined import Confined
from validate.errors import RuntimeFailure

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

SHOWN = 8  # parts of the text


@dataclass(frozen=True)
class Nearest:
    """How near the nearest comes: it cuts `differing` of `total` texts otherwise; `text` is the shortest of them."""

    name: str
    differing: int
    total: int
    text: str = ""
    wanted: tuple[str, ...] = ()
    got: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.differing:
            return f"the nearest is {self.name}, which splits {self.total} test strings alike"
        return (
            f"the nearest is {self.name}, which splits {self.differing} of {self.total} test strings differently: "
            f"{self.text!r} into {_parts(self.got)}, the tokenizer into {_parts(self.wanted)}"
        )


def nearest(pre_tokenizer: object, texts: Sequence[str] | None = None) -> Nearest | None:
    """The nearest name by what it cuts; None where the tokenizers library is not there or takes no such pipeline."""
    if importlib.util.find_spec("tokenizers") is None:
        return None
    texts = _texts() if texts is None else texts
    wanted = _library(pre_tokenizer)
    if wanted is None:
        return None
    try:  # a stranger's expressions may go on for ever
        own = Confined(_Cutter(wanted), "the pre-tokenizer").ask(_Cutter.cut_all, texts)
    except RuntimeFailure:
        return None
    found = []
    for entry in TABLE:
        theirs = _of_entry(entry)
        cut = {text: _cut(theirs, text) for text in texts}
        wrong = sorted((text for text in texts if cut[text] != own[text]), key=len)
        first = wrong[0] if wrong else ""
        found.append(Nearest(entry.name, len(wrong), len(texts), first, own.get(first, ()), cut.get(first, ())))
    return min(found, key=lambda near: near.differing)


def _texts() -> list[str]:
    """Lines and pieces of the hard strings: short ones make a message one can read."""
    from validate.samples import HARD_STRINGS

    pieces = [" ".join(text.split(" ")[:3]) for text in HARD_STRINGS]
    return [text for text in dict.fromkeys([*HARD_STRINGS, *pieces]) if text]


def _library(pre_tokenizer: object) -> PreTokenizer | None:
    """The pipeline as the library runs it; None for one it does not know."""
    from tokenizers import Tokenizer

    model = {"type": "BPE", "vocab": {}, "merges": []}
    try:
        whole = Tokenizer.from_str(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": pre_tokenizer}))
    except Exception:  # whatever the library says to a pipeline of strangers
        return None
    known: PreTokenizer | None = whole.pre_tokenizer
    return known


def _of_entry(entry: Entry) -> PreTokenizer:
    from tokenizers import Regex, pre_tokenizers

    made: list[PreTokenizer] = []
    for step in entry.cuts or entry.steps:
        if step in (PUNCTUATION_RUNS, PUNCTUATION_EACH):
            made.append(pre_tokenizers.Punctuation("contiguous" if step == PUNCTUATION_RUNS else "isolated"))
        elif step != BYTES:
            made.append(pre_tokenizers.Split(Regex(written(step)), "isolated"))
    return pre_tokenizers.Sequence(made)


def _cut(pre_tokenizer: PreTokenizer | None, text: str) -> tuple[str, ...]:
    """The parts of the text, by where they begin and end in it: a part may be spelled in bytes."""
    if pre_tokenizer is None:
        return (text,)
    return tuple(text[start:end] for _, (start, end) in pre_tokenizer.pre_tokenize_str(text))


@dataclass(frozen=True)
class _Cutter:
    """Cuts texts."""

    by: PreTokenizer

    def cut_all(self, texts: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return {text: _cut(self.by, text) for text in texts}


def _parts(parts: Sequence[str]) -> str:
    return " ".join(map(repr, parts[:SHOWN])) + (" …" if len(parts) > SHOWN else "")
