"""Sentences by rules: a file of alternatives whose slots name other rules.

    @document                    a rule and below it its alternatives, one a line or between bars
    {town} lies {3-40} km off    {town} is an alternative of that rule, {3-40} a number
    {t=town} is old. {t} is …    what {t=town} drew is {t} for the rest of the document

Braces around anything else are themselves, and so is a bar with a space on either side; a backslash in front makes a
bar or a backslash itself, and of an n the end of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from convert.calibration.draw import Draw

Rules = Mapping[str, Sequence[str]]

SLOT = re.compile(r"\{(?:(?P<low>\d+)-(?P<high>\d+)|(?:(?P<bound>\w+)=)?(?P<rule>[A-Za-z]\w*))\}")
BAR = re.compile(r"(?<![ \\])\|(?! )")
HEADER = re.compile(r"@(\w+)")
ESCAPE = re.compile(r"\\(.)")


def parse(text: str) -> dict[str, list[str]]:
    """Rule -> its alternatives."""
    rules: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if header := HEADER.fullmatch(line):
            name = header[1]
            rules[name] = []
        elif line.strip():
            rules[name] += BAR.split(line)
    return rules


def write(rules: Rules, draw: Draw, name: str = "document") -> str:
    """One text by the rule `name`."""
    return ESCAPE.sub(lambda found: "\n" if found[1] == "n" else found[1], _expand(rules, draw, name, {}))


def _expand(rules: Rules, draw: Draw, name: str, bound: dict[str, str]) -> str:
    def fill(slot: re.Match[str]) -> str:
        if slot["low"]:
            return str(draw.number(int(slot["low"]), int(slot["high"])))
        if slot["bound"] is None and slot["rule"] in bound:
            return bound[slot["rule"]]
        if slot["rule"] not in rules:
            return slot[0]
        drawn = _expand(rules, draw, slot["rule"], bound)
        if slot["bound"]:
            bound[slot["bound"]] = drawn
        return drawn

    return SLOT.sub(fill, draw.deal(f"@{name}", rules[name]))
