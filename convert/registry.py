"""The formats and the stages there are. Asking for their names imports none of them.

A format is a folder of convert/formats/ with a FORMAT, or an entry point of the group `convert.formats`. A stage is
a word of a format's `stages`, or one of the three that every recipe may have whatever the formats.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, cast

from convert import plugins
from convert.bundle import Bundle
from convert.errors import ConvertError, Problem
from convert.formats.base import SOURCE, Format, Kind, Output
from convert.stage import Stage

VALIDATE, EXISTING = "validate", "existing"
OWN = {
    SOURCE: "convert.taken_as:STAGE",
    EXISTING: "convert.formats.existing_stage:STAGE",
    VALIDATE: "convert.validation.stage:STAGE",
}
AnyStage = Stage[Any]


def names() -> list[str]:
    """Every word `use:` understands, in order."""
    return sorted(_references())


def load(name: str) -> AnyStage:
    """The stage called `name`; the caller has looked in `names()`."""
    return cast(AnyStage, plugins.load(_references()[name]))


def formats() -> list[Format]:
    """Every format, in the order people expect."""
    found = [
        _format(reference)
        for reference in plugins.found("convert.formats", "FORMAT", "convert.formats", packages=True).values()
    ]
    return sorted(found, key=lambda format_: (format_.rank, format_.name))


def kinds() -> dict[str, tuple[Format, Kind]]:
    """The format of every kind of output, and the kind, by the kind's name. Raises ConvertError for one of two."""
    found: dict[str, tuple[Format, Kind]] = {}
    for format_ in formats():
        for kind in format_.kinds:
            if kind.name in found:
                raise _taken(format_, f"kind '{kind.name}'", found[kind.name][0].name)
            found[kind.name] = (format_, kind)
    return found


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """What can be run of a bundle, of whatever format."""
    for format_ in formats():
        yield from format_.outputs(stage, bundle)


@functools.cache
def _format(reference: str) -> Format:
    return cast(Format, plugins.load(reference))


def _references() -> Mapping[str, str]:
    found = dict(OWN)
    for format_ in formats():
        for word, reference in format_.stages.items():
            if word in found:
                raise _taken(format_, f"word `use: {word}`", found[word])
            found[word] = reference
    return found


def _taken(format_: Format, what: str, whose: str) -> ConvertError:
    return ConvertError(Problem(f"format {format_.name}", f"its {what} is that of {whose} too", "a name of its own"))
