"""Pieces of GitHub-flavoured Markdown. Names, reasons and tokens are strangers' words: nothing of them is markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from validate.report.words import NOTHING, token, visible

# What is markup wherever it stands; `_` inside a word, and `<` before what cannot begin a tag, are none.
_MARKUP = re.compile(r"([\\`*\[\]~&]|(?<![^\W_])_|_(?![^\W_])|<(?=[A-Za-z/!?]))")
_LEADING = re.compile(r"^(\d*)(?=[#+=>-]|(?<=\d)[.)](?:\s|$))")  # before what begins a block at the start of a line


def text(words: str) -> str:
    """Plain words in one line."""
    line = _MARKUP.sub(r"\\\1", visible(" ".join(words.split())))
    return _LEADING.sub(r"\1\\", line)


def code(words: str) -> str:
    """A code span of one line."""
    shown = visible(words.replace("`", "'"))
    return f"`{shown}`" if shown.strip() else "(nothing)"


def token_code(words: str) -> str:
    """A token's text as a code span, in which spaces at its ends are seen."""
    return f"`{token(words).replace('`', chr(39))}`" if words else "(nothing)"


def codes(names: Iterable[str]) -> str:
    """`a`, `b` and `c`, all of which may be in one sentence."""
    *first, last = [code(name) for name in names]
    return f"{', '.join(first)} and {last}" if first else last


def table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """A table; `align` has a letter a column, l or r."""
    yield _row(head)
    yield _row([{"l": ":--", "r": "--:"}[letter] for letter in align])
    yield from map(_row, rows)
    yield ""


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def folded(title: str, lines: Iterable[str]) -> Iterable[str]:
    """Lines that a click unfolds; nothing where there is no line."""
    inside = list(lines)
    if inside:
        yield f"<details><summary>{title}</summary>"
        yield ""  # without which GitHub reads what follows as HTML
        yield from inside
        if inside[-1]:
            yield ""
        yield "</details>"
        yield ""


def plain(value: float | None, form: str) -> str:
    """A number, or a dash."""
    return NOTHING if value is None else format(value, form)
