"""`{{model.name}}` in a recipe: put in after the YAML was read, so that no value can become structure.

A value that is nothing but a variable becomes what that stands for, number or list; elsewhere it is put in as text.
What was put in is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from convert.batch.options import Value
from convert.errors import Problem
from convert.suggest import suggest

VARIABLE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}")
NAME = re.compile(r"[A-Za-z_]\w{0,63}")
NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
OURS = ("model", "recipe")  # whose words no list may take

Place = tuple[str | int, ...]
Say = Callable[[Place, str, str], None]  # place, what is wrong, remedy


def typed(text: str) -> Value:
    """A cell of a list as YAML would read it: 4 is a number, true is true, all else is text."""
    if text in ("true", "false"):
        return text == "true"
    if NUMBER.fullmatch(text):
        return int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
    return text


def has_variable(value: object) -> bool:
    """Whether a text names a variable."""
    return isinstance(value, str) and VARIABLE.search(value) is not None


def substituted(node: object, known: Mapping[str, Value], say: Say, place: Place = ()) -> object:
    """`node` with every variable replaced; what cannot be is told to `say`, and stays."""
    if isinstance(node, dict):
        for key in node:
            if "{{" in str(key):
                say((*place, key), f"the key {key!r} has a variable", "a variable stands in a value")
        return {key: substituted(value, known, say, (*place, key)) for key, value in node.items()}
    if isinstance(node, list):
        return [substituted(value, known, say, (*place, i)) for i, value in enumerate(node)]
    return _scalar(node, known, say, place) if isinstance(node, str) and "{{" in node else node


def _scalar(text: str, known: Mapping[str, Value], say: Say, place: Place) -> object:
    names = VARIABLE.findall(text)
    if "{{" in VARIABLE.sub("", text):
        say(place, f"{text!r} has braces that are no variable", "write {{model.name}}, or a variable of the list")
        return text
    unknown = [name for name in names if name not in known]
    for name in unknown:
        say(place, f"there is no variable '{name}'", suggest(name, known))
    if unknown:
        return text
    if VARIABLE.fullmatch(text):
        return known[names[0]]
    for name in names:
        if isinstance(known[name], list):
            say(place, f"'{name}' is a list", "let it be the whole value")
            return text
    return VARIABLE.sub(lambda found: str(known[found[1]]), text)


def name_problem(name: str, where: str) -> list[Problem]:
    """What keeps a word from naming a variable."""
    if NAME.fullmatch(name) and name not in OURS:
        return []
    return [Problem(where, f"'{name}' cannot name a variable", "letters, digits and '_', and none of model, recipe")]
