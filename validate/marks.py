"""How a format is told from another in a picture. Who knows the formats says it: here is no list of them. A leaf."""

from __future__ import annotations

from dataclasses import dataclass

SHAPES = ("circle", "square", "diamond", "up", "down", "hexagon", "cross", "flag", "bow", "chevron", "star")


@dataclass(frozen=True)
class Mark:
    """A shape of SHAPES and a colour, "#1668c8": both say the same, so that neither is needed alone."""

    shape: str
    colour: str
    colour_dark: str = ""  # on a dark page; the same, nearer to white, when left out


@dataclass(frozen=True)
class FormatLook:
    """A format as a report shows it: its name for people, its mark, and what a reader of its sizes has to know."""

    title: str
    mark: Mark
    note: str = ""
