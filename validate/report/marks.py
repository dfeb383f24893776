"""How the outputs of a format are told apart in a picture. Who knows the formats says it: here is no list of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import cast

from validate.marks import SHAPES, FormatLook, Mark
from validate.report.schema import FormatEntry, MarkEntry, Report
from validate.report.words import visible


def format_entries(looks: Mapping[str, FormatLook]) -> dict[str, FormatEntry]:
    """`formats` of report.json: name -> how it is shown."""
    return {
        name: {"title": look.title, "mark": cast(MarkEntry, asdict(look.mark)), "note": look.note}
        for name, look in looks.items()
    }


# For formats of which a report says nothing: one of another package, or any of a report from before they were in it.
_SPARE = (
    Mark("circle", "#1668c8", "#6aabff"),
    Mark("square", "#c24f06", "#ff9d5c"),
    Mark("diamond", "#8338c0", "#c99aff"),
    Mark("up", "#0a7a68", "#3ecfb2"),
    Mark("down", "#b0196b", "#ff85bf"),
    Mark("hexagon", "#6a6d00", "#cdd04a"),
    Mark("cross", "#52606f", "#aab6c4"),
    Mark("flag", "#333333", "#d8d8d8"),
)
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}\Z")
_LIGHTER = 0.45  # of the way to white


def looks(report: Report) -> dict[str, FormatLook]:
    """How each format of a report's outputs is shown; a mark that cannot be drawn is replaced by a spare one."""
    stated = report.get("formats", {})
    names = dict.fromkeys([*stated, *(output["format"] for output in report["outputs"])])
    marks = {name: mark for name, entry in stated.items() if (mark := _mark(entry["mark"])) is not None}
    found = {}
    for name in names:
        if name not in marks:
            marks[name] = _spare(marks.values())
        entry = stated.get(name)
        title, note = (entry["title"], entry["note"]) if entry is not None else (name, "")
        found[name] = FormatLook(visible(title), marks[name], note)
    return found


def _mark(entry: MarkEntry) -> Mark | None:
    """The mark, None for a shape or a colour that is none: it goes into a style sheet as it is."""
    shape, colour, dark = entry["shape"], entry["colour"], entry["colour_dark"]
    if shape not in SHAPES or not _COLOUR.match(colour):
        return None
    return Mark(shape, colour, dark if _COLOUR.match(dark) else _lighter(colour))


def _spare(taken: Iterable[Mark]) -> Mark:
    """The first whose shape nobody has; the last when there is none left."""
    shapes = {mark.shape for mark in taken}
    return next((mark for mark in _SPARE if mark.shape not in shapes), _SPARE[-1])


def _lighter(colour: str) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (255 - part) * _LIGHTER):02x}" for part in parts)
