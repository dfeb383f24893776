"""convert families"""

from __future__ import annotations

import click

from convert.cli.common import json_option, reports_errors, say_json


@click.command("families")
@json_option
@reports_errors
def command(as_json: bool) -> int:
    """List the model families there are: their classes in config.json, and the formats that take them.

    What a format says of a checkpoint itself, `convert inspect CHECKPOINT` asks.
    """
    from convert import architectures, registry

    formats = registry.formats()
    for family in architectures.families():
        takes = {format_.title: format_.supports_family(family) for format_ in formats}
        if as_json:
            missing = {format_.name: list(takes[format_.title].missing) for format_ in formats}
            about = {"family": family.name, "title": family.title, "classes": family.classes}
            say_json({**about, "vision": family.has_vision, "missing": missing})
            continue
        click.echo(f"{family.name:<20} {family.title}")
        click.echo(f"{'':<20} {', '.join(family.classes)}")
        click.echo(f"{'':<20} {', '.join(title for title, support in takes.items() if support.yes)}")
    return 0
