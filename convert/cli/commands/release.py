"""convert release"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.common import (
    json_option,
    out_option,
    quiet_option,
    recipe_argument,
    reports_errors,
    say_json,
    verbose_option,
)
from convert.json_types import JsonDict

if TYPE_CHECKING:
    from convert.recipe import Recipe
    from convert.release.release import Release
    from convert.release_options import ReleaseOptions

EPILOG = (
    "Exit codes: 0 good, 1 a file was changed or a server refused, 2 there is nothing to publish or the usage is wrong."
)


@click.command("release", epilog=EPILOG)
@recipe_argument
@out_option
@click.option("--to", metavar="PLACE", help="A folder, hf://ORGANIZATION/{name}, or s3://, gs://, az:// with a path.")
@click.option(
    "--which",
    "which",
    multiple=True,
    metavar="passed|all|PATTERN",
    help="Outputs that passed (the default), all but those that failed, or those that fit a pattern; repeatable.",
)
@click.option(
    "--accept-failed",
    "accepted",
    multiple=True,
    metavar="NAME",
    help="Publish this output though it failed its limits; the card says so. Repeatable.",
)
@click.option("--sign", metavar="KEY|sigstore", help="Private key (PEM) to sign with, or sigstore.")
@click.option("--dry-run", is_flag=True, help="Say what would be published, and write nothing.")
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(
    recipe: Path,
    out: Path,
    to: str | None,
    which: tuple[str, ...],
    accepted: tuple[str, ...],
    sign: str | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Lay out what a run has made as the repositories its users expect: files, cards, checksums, provenance.

    Only what passed its limits is published, unless it is named with --accept-failed. A second time only what changed.
    """
    from convert.cli.console import event_printer
    from convert.events import StepProgress
    from convert.recipe import load_recipe
    from convert.release.release import Request, release

    loaded = load_recipe(recipe)
    with (
        event_printer(as_json=as_json, quiet=quiet, verbose=verbose) as on_event,
        StepProgress("release", on_event) as progress,
    ):
        request = Request(_options(loaded, to, which, sign), accepted, dry_run)
        found = release(loaded, out, request, progress)
    if as_json:
        say_json(_json(found, dry_run))
    elif not quiet:
        _show(found, dry_run, verbose)
    return 0


def _options(recipe: Recipe, to: str | None, which: tuple[str, ...], sign: str | None) -> ReleaseOptions:
    """The recipe's, with what the command line says in their place."""
    from convert.release_options import ALL, PASSED, ReleaseOptions, place

    options = recipe.release or ReleaseOptions.model_validate({})
    said: JsonDict = {}
    if to:
        try:
            said["to"] = place(to)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--to") from None
    if which:
        words = [word for word in which if word in (PASSED, ALL)]
        if words and len(which) > 1:
            raise click.BadParameter(f"{words[0]} and other words", param_hint="--which")
        said["which"] = which[0] if words else tuple(which)
    if sign:
        said["sign"] = sign
    return options.model_copy(update=said)


def _show(found: Release, dry_run: bool, verbose: bool) -> None:
    from convert.cli.console import show_table
    from convert.table import size

    for one in found.repositories:
        state = f"would be {one.state}" if dry_run and one.state != "unchanged" else one.state
        click.echo(f"{one.where}: {state}, {size(one.contents.size)} in {len(one.contents.hashes) + 1} files")
        if verbose or dry_run:
            rows = [(path, size(entry.size)) for path, entry in sorted(one.contents.hashes.items())]
            show_table(("file", "size"), rows, right=("size",))
            click.echo("")
    for name, reason in found.left_out.items():
        click.echo(f"not published: {name}: {reason}")


def _json(found: Release, dry_run: bool) -> JsonDict:
    return {
        "event": "finished",
        "dry_run": dry_run,
        "repositories": [
            {
                "name": one.name,
                "where": one.where,
                "state": one.state,
                "bytes": one.contents.size,
                "files": {path: entry.sha256 for path, entry in sorted(one.contents.hashes.items())},
            }
            for one in found.repositories
        ],
        "left_out": dict(found.left_out),
    }
