"""convert new-family"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import EPILOG, reports_errors


@click.command("new-family", epilog=EPILOG)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--out",
    default=".",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The project's folder: files go into its convert/ and tests/.",
)
@reports_errors
def command(model: Path, out: Path) -> int:
    """Draft a family for MODEL, the folder of a checkpoint of a class that none serves, with a test that fails.

    Reads config.json and the tensors' names and shapes. What it cannot tell is in comments that begin with OPEN.
    """
    from convert.inspection.draft import draft
    from convert.inspection.draft_text import files
    from convert.source.checkpoint import open_checkpoint, shapes_of

    checkpoint = open_checkpoint(model)
    found = draft(checkpoint.config, shapes_of(checkpoint.tensors))
    made = files(found, out)
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
        click.echo(f"wrote {path}")
    graph = "llama.cpp has a graph of that name" if found.known else "llama.cpp has no graph of that name"
    near = f"nearest is {found.near.family}" if found.near else "no family is near"
    rows = sum(1 for row in found.rows if row.words)
    click.echo(f"{found.graph.name}: {graph}; {near}; {rows} of {len(found.rows)} kinds of tensors have a row")
    click.echo(f"{len(found.questions)} open questions, in the first file")
    click.echo("next:")
    click.echo("  1. answer each OPEN line: llama.cpp's src/models/ has the graph, its conversion/ the metadata")
    click.echo(f"  2. pytest tests/parity/test_{found.name}.py, until it holds; then delete it")
    click.echo(f"  3. pytest tests/parity/test_parity.py -k {found.name}, for the bytes of upstream's converter")
    click.echo("  4. docs/extend/add-a-family.md says the rest")
    return 0
