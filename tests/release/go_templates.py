"""As much of Go's text/template as our translations use, written from its documentation: literals, if, range.

Independent of what writes them: it reads the text of a template and knows nothing of frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

ACTION = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
Node = tuple[str, Any]


def render(template: str, messages: Sequence[Mapping[str, str]]) -> str:
    """What Ollama makes of it: .Messages, and .System, which is what all system messages say."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    tokens = _tokens(template)
    nodes = _block(tokens)
    assert not tokens
    return _run(nodes, {".Messages": list(messages), ".System": system})


def _tokens(template: str) -> list[Node]:
    found: list[Node] = []
    at = 0
    for match in ACTION.finditer(template):
        found += [("text", template[at : match.start()]), ("action", match[1].strip())]
        assert not match[1].startswith("- ")
        at = match.end()
    return [*found, ("text", template[at:])]


def _block(tokens: list[Node]) -> list[Node]:
    """Nodes up to the end or else of this block, which stays."""
    nodes: list[Node] = []
    while tokens:
        kind, text = tokens[0]
        if kind == "action" and text.split()[0] in ("end", "else"):
            return nodes
        tokens.pop(0)
        if kind == "action" and text.startswith("if "):
            nodes.append(("if", _branches(text[3:], tokens)))
        elif kind == "action" and text.startswith("range "):
            nodes.append(("range", _block(tokens)))
            assert tokens.pop(0) == ("action", "end")
        else:
            nodes.append((kind, text))
    return nodes


def _branches(condition: str, tokens: list[Node]) -> list[tuple[str, list[Node]]]:
    found = [(condition, _block(tokens))]
    while (word := tokens.pop(0)[1]) != "end":
        found.append((word.removeprefix("else").strip().removeprefix("if").strip() or "true", _block(tokens)))
    return found


def _run(nodes: Sequence[Node], scope: dict[str, Any]) -> str:
    out = []
    for kind, what in nodes:
        if kind == "text":
            out.append(what)
        elif kind == "if":
            out.append(next((_run(block, scope) for test, block in what if _true(test, scope)), ""))
        elif kind == "range":
            last = len(scope[".Messages"]) - 1
            for number, message in enumerate(scope[".Messages"]):
                inner = {".Role": message["role"], ".Content": message["content"], "last": number == last}
                out.append(_run(what, {**scope, **inner}))
        elif what.startswith('"'):
            out.append(json.loads(what))
        elif not what.startswith("$last :="):
            out.append(scope[what])
    return "".join(out)


def _true(test: str, scope: Mapping[str, Any]) -> bool:
    if match := re.fullmatch(r'(eq|ne) \.Role "(\w+)"', test):
        return (scope[".Role"] == match[2]) == (match[1] == "eq")
    if match := re.fullmatch(r"and \((.+?)\) (.+)", test):
        return _true(match[1], scope) and _true(match[2], scope)
    if test.startswith("not "):
        return not _true(test[4:], scope)
    return {"true": True, "$last": scope.get("last"), ".System": bool(scope[".System"])}[test]
