"""convert verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.common import json_option, quiet_option, reports_errors, say_json, verbose_option
from convert.json_types import JsonDict

if TYPE_CHECKING:
    from convert.release.verify import Verified

CHANGED = 3
EPILOG = (
    "Exit codes: 0 all is as it was published, 1 something cannot be read, 2 the usage is wrong, 3 a file was changed, "
    "is missing or does not belong there, or the signature is not that of the key."
)


@click.command("verify", epilog=EPILOG)
@click.argument("where", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--key", metavar="PEM", type=click.Path(path_type=Path), help="Public key that it has to be signed by.")
@click.option(
    "--chain",
    multiple=True,
    metavar="PEM",
    type=click.Path(path_type=Path),
    help="Certificates of whom it has to be signed by, up to the root's; repeatable.",
)
@click.option(
    "--rebuild",
    metavar="RECIPE",
    type=click.Path(path_type=Path),
    help="Run this recipe again from the source, validation left out, and compare bytes.",
)
@click.option("--scratch", metavar="FOLDER", type=click.Path(path_type=Path), help="Where that is made, and stays.")
@click.option("--identity", metavar="NAME", help="Who has to have signed it at sigstore; with --issuer.")
@click.option("--issuer", metavar="URL", help="Who vouches for that identity.")
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(
    where: Path,
    key: Path | None,
    chain: tuple[Path, ...],
    rebuild: Path | None,
    scratch: Path | None,
    identity: str | None,
    issuer: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Check that what `convert release` published is still what it was: hashes, structure, provenance, signature.

    FOLDER is a repository, or a folder of them. Names each file that was changed and the first place in it.
    """
    from convert.cli.console import event_printer
    from convert.events import StepProgress
    from convert.release.signature import Trusted
    from convert.release.verify import repositories, verify

    if bool(identity) != bool(issuer) or sum(map(bool, (key, chain, identity))) > 1:
        raise click.UsageError("give --key, --chain, or --identity with --issuer")
    trusted = Trusted(key, chain, identity or "", issuer or "") if key or chain or identity else None
    found = []
    with event_printer(as_json=as_json, quiet=True, verbose=verbose) as on_event:
        for folder in repositories(where):
            with StepProgress("verify", on_event) as progress:
                found.append(verify(folder, progress, trusted))
            if not as_json:
                _show(found[-1], quiet)
    if rebuild is not None:
        found = _rebuilt(found, rebuild, scratch, quiet or as_json)
    code = CHANGED if any(one.findings for one in found) else 0
    if as_json:
        say_json({"event": "finished", "exit_code": code, "repositories": [_json(one) for one in found]})
    return code


def _rebuilt(found: list[Verified], recipe: Path, scratch: Path | None, quiet: bool) -> list[Verified]:
    """What was verified, with what the recipe makes otherwise now."""
    import tempfile
    from contextlib import ExitStack
    from dataclasses import replace

    from convert.cli.console import event_printer
    from convert.recipe import load_recipe
    from convert.release.rebuild import differences, rebuild
    from convert.release.verify import line

    with ExitStack() as stack:
        folder = scratch or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="convert-rebuild-")))
        on_event = stack.enter_context(event_printer(as_json=False, quiet=quiet, verbose=False))
        repositories = rebuild(load_recipe(recipe), folder, on_event)
        results = []
        for one in found:
            compared, differing = differences(one.folder, repositories)
            for finding in differing:
                click.echo(f"error: {line(finding)}", err=True)
            if not quiet:
                click.echo(f"{one.folder}: {compared} files made again, {compared - len(differing)} of them equal")
            results.append(replace(one, findings=(*one.findings, *differing)))
    return results


def _show(found: Verified, quiet: bool) -> None:
    from convert.release.verify import line, summary

    for finding in found.findings:
        click.echo(f"error: {line(finding)}", err=True)
    if not quiet:
        click.echo(summary(found))
        for note in found.notes:
            click.echo(f"note: {note}")


def _json(found: Verified) -> JsonDict:
    return {
        "folder": str(found.folder),
        "files": found.files,
        "bytes": found.bytes,
        "findings": [
            {"path": one.path, "what": one.what, "first": one.first, "inside": one.inside} for one in found.findings
        ],
        "notes": list(found.notes),
    }
