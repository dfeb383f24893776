"""convert inspect"""

from __future__ import annotations

import json
from pathlib import Path

import click

from convert.cli.common import json_option, reports_errors, say_json, say_problems, verbose_option


@click.command("inspect")
@click.argument("what", metavar="FILE|CHECKPOINT", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    help="The checkpoint a GGUF file was made from: shows how far each tensor is from it.",
)
@click.option("--quick", is_flag=True, help="Of a checkpoint: do not ask stages that import torch to answer (ONNX).")
@json_option
@verbose_option
@reports_errors
def command(what: Path, against: Path | None, quick: bool, as_json: bool, verbose: bool) -> int:
    """Show what a safetensors, GGUF or ONNX file holds, from its header alone unless --against is given.

    Of a checkpoint (a folder, or a model in the hub's cache: org/name[@revision]) what it is, and what each stage
    would make of it, with the sizes.
    """
    from convert.inspection.file import inspect_file

    if against is None and not (what.is_file() and what.name != "config.json"):
        from convert.inspection.checkpoint_ref import is_checkpoint

        if is_checkpoint(what):
            return _inspect_checkpoint(what, quick, as_json, verbose)
    inspection = inspect_file(what)
    if against is not None:
        _say_errors(what, against, as_json)
    elif as_json:
        import dataclasses

        say_json(dataclasses.asdict(inspection))
    else:
        from convert.cli.console import show_inspection

        show_inspection(inspection, verbose)
    return 0


def _inspect_checkpoint(what: Path, quick: bool, as_json: bool, verbose: bool) -> int:
    """Lines as they are known: what imports much is shown last. A checkpoint that no plan takes is a 1."""
    from convert.cli.console import show_inspection, show_preview
    from convert.inspection.checkpoint import inspect_checkpoint
    from convert.inspection.checkpoint_ref import options_for
    from convert.inspection.preview import preview, preview_json

    about, bundle = inspect_checkpoint(options_for(what))
    previews = preview(about, bundle, every=verbose, quick=quick)
    if as_json:
        say_json(preview_json(about, previews))
    else:
        show_inspection(about, verbose)
        show_preview(previews, verbose)
        say_problems(about.problems, False, 1)
    return 1 if about.problems else 0


def _say_errors(file: Path, folder: Path, as_json: bool) -> None:
    from convert.formats.gguf.against import error_lines, tensor_errors

    errors = tensor_errors(file, folder)
    for line in (json.dumps(e.to_json()) for e in errors) if as_json else error_lines(errors):
        click.echo(line)
