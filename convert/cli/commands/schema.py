"""convert schema"""

from __future__ import annotations

import json

import click

from convert.cli.common import reports_errors


@click.command("schema")
@click.argument("what", type=click.Choice(["recipe", "report"]), default="recipe")
@reports_errors
def command(what: str) -> int:
    """Print the JSON Schema of a recipe, for editors, or of report.json."""
    if what == "report":
        from convert.validation.read_report import json_schema
    else:
        from convert.recipe import json_schema

    click.echo(json.dumps(json_schema(), indent=2))
    return 0
