"""convert families"""

from __future__ import annotations

from collections.abc import Sequence

import click

from convert.cli.common import json_option, reports_errors, say_json


@click.command("families")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@json_option
@reports_errors
def command(words: Sequence[str], as_json: bool) -> int:
    """List the model families there are: a line each, with their classes in config.json.

    With WORDs those whose name, title or class has one of them, and the formats that take them. What a format says of
    a checkpoint itself, `convert inspect CHECKPOINT` asks.
    """
    from convert import architectures

    entries = architectures.listed()
    lower = [word.lower() for word in words]
    found = [
        e for e in entries if not lower or any(w in t.lower() for w in lower for t in (e.name, e.title, *e.classes))
    ]
    if not found:
        from convert.errors import InputError

        raise InputError(
            "families", f"none of {len(entries)} has {' or '.join(words)} in its name", "", architectures.LIST
        )
    if as_json or words:
        for entry in found:
            _say(entry.name, as_json)
        return 0
    width = max(len(entry.name) for entry in found)
    for entry in found:
        click.echo(f"{entry.name:<{width}}  {entry.title}: {', '.join(entry.classes)}")
    click.echo(f"{len(found)} families; `convert families WORD` names the formats that take one")
    return 0


def _say(name: str, as_json: bool) -> None:
    """A family with the formats that take it, and what the others lack."""
    from convert import architectures, registry

    family = architectures.load(name)
    formats = registry.formats()
    takes = {format_.title: format_.supports_family(family) for format_ in formats}
    if as_json:
        missing = {format_.name: list(takes[format_.title].missing) for format_ in formats}
        about = {"family": family.name, "title": family.title, "classes": family.classes}
        say_json({**about, "vision": family.has_vision, "missing": missing})
        return
    click.echo(f"{family.name:<20} {family.title}")
    click.echo(f"{'':<20} {', '.join(family.classes)}")
    click.echo(f"{'':<20} {', '.join(title for title, support in takes.items() if support.yes)}")
