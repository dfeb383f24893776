"""The words of a recipe that are types: of a file, of a tensor, of a projector; and files of `tensor=type`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

from convert.errors import PlanError, Problem
from convert.suggest import suggest
from quantize.encoders import ENCODERS
from quantize.mixes import MIXES

PROJECTOR_TYPES = ("F32", "F16", "BF16", "Q8_0")


def _one_of(words: Sequence[str]) -> tuple[BeforeValidator, WithJsonSchema]:
    """What makes a `str` option one of `words`; the message for another names the nearest."""

    def check(word: object) -> object:
        if word in words:
            return word
        meant = str(word).upper().replace("-", "_")
        usual = [f"{meant}_M"] if f"{meant}_M" in words else []  # as llama.cpp understands Q4_K
        close = usual or difflib.get_close_matches(meant, words, 1, 0.5)
        hint = f"did you mean {close[0]}?" if close else suggest(meant, words, "convert stages")
        raise ValueError(f"{word!r} is not a type that is written here; {hint}")

    return BeforeValidator(check), WithJsonSchema({"enum": list(words), "type": "string"})


def _type_or_none(word: object) -> object:
    """A projector's type, or False or None; one message where a union's members would each have theirs."""
    if word is None or word is False or word in PROJECTOR_TYPES:
        return word
    raise ValueError(f"{word!r} is not a type for a projector, wanted {', '.join(PROJECTOR_TYPES)} or false")


TextType = Annotated[str, *_one_of(tuple(MIXES))]
BlockType = Annotated[str, *_one_of(tuple(ENCODERS))]
ProjectorType = Annotated[
    str | bool | None,
    BeforeValidator(_type_or_none),
    WithJsonSchema({"enum": [*PROJECTOR_TYPES, False, None]}),
]


def pattern(text: str) -> str:
    """A regular expression, or ValueError."""
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from None
    return text


def read_tensor_types(path: Path) -> tuple[tuple[str, str], ...]:
    """(pattern, type) in the order of a file for llama-quantize's --tensor-type-file. Raises PlanError.

    `pattern=type`, separated by white space; the types may be in small letters, as llama.cpp takes them.
    """
    try:
        words = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise PlanError(Problem(str(path), f"cannot be read ({reason})", "lines of pattern=type")) from None
    found, problems = [], []
    for word in words:
        text, _, kind = word.partition("=")
        try:
            if not text or kind.upper() not in ENCODERS:
                raise ValueError(f"{word!r:.120} is not pattern=type")
            found.append((pattern(text), kind.upper()))
        except ValueError as error:
            problems.append(Problem(str(path), str(error), f"as in ffn_down=q6_k; types: {', '.join(ENCODERS)}"))
    if problems:
        raise PlanError(*problems)
    return tuple(found)
