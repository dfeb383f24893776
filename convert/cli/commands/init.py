"""convert init"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import EPILOG, reports_errors


@click.command("init", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out", default="recipe.yaml", show_default=True, type=click.Path(path_type=Path), help="The file to write."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@reports_errors
def command(model: Path, out: Path, force: bool) -> int:
    """Write a commented recipe for MODEL, with the stages that it supports.

    MODEL is the folder of a checkpoint, or a model of the hub: org/name[@revision]. Nothing is downloaded.
    """
    from convert.errors import InputError
    from convert.inspection.new_recipe import recipe_text, subject

    text = recipe_text(subject(model, out))
    try:
        with open(out, "w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        remedy = "name another with --out, or write over it with --force"
        raise InputError(str(out), "is there already", "a new file", remedy) from None
    click.echo(f"wrote {out}; `convert plan {out}` says what it would do")
    return 0
