"""Which families there are and which classes each serves, read off their files without importing them.

Importing some hundred modules takes longer than what most commands do; a plan imports the one family that it needs.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DECLARATION = "\nFAMILY = Family("


@dataclass(frozen=True)
class Entry:
    """What a family's file says of itself."""

    name: str
    title: str
    classes: tuple[str, ...]


@functools.cache
def read_entry(path: Path) -> Entry | None:
    """The declaration in a family's file; None where it is not written out in words, and has to be imported."""
    try:
        text = path.read_text(encoding="utf-8")
        statement = ast.parse(text[text.index(DECLARATION) + 1 :]).body[0]
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Call):
            return None
        words = {word.arg: word.value for word in statement.value.keywords}
        name, title = (str(ast.literal_eval(words[key])) for key in ("name", "title"))
        return Entry(name, title, tuple(_strings(words["classes"], text)))
    except (OSError, SyntaxError, ValueError, KeyError):
        return None


def _strings(node: ast.expr, text: str) -> Iterator[str]:
    """The strings of a tuple, constants of the module among them."""
    if isinstance(node, ast.Tuple):
        for item in node.elts:
            yield from _strings(item, text)
    elif isinstance(node, ast.Starred):
        yield from _strings(node.value, text)
    elif isinstance(node, ast.Name):
        found = re.search(rf"^{node.id}(?:: [^\n=]+)? = (.+?)\n(?=\S|\Z)(?!\))", f"{text}\n", re.MULTILINE | re.DOTALL)
        if found is None:
            raise ValueError(f"{node.id} is no constant of the module")
        yield from _strings(ast.parse(found[1].strip(), mode="eval").body, text)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    else:
        raise ValueError("no string")
