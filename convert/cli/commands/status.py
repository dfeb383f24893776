"""convert status"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import json_option, reports_errors, say_json


@click.command("status", epilog="Exit codes: 0 there is a batch, 2 there is none.")
@click.argument("out", default="out", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Say it again every two seconds, until the batch has ended.")
@json_option
@reports_errors
def command(out: Path, watch: bool, as_json: bool) -> int:
    """How far the batch in OUT is: what is done, what runs, what failed. Asks nothing of the batch itself."""
    import time

    from convert.cli.batch_status import status_lines, status_of

    while True:
        found = status_of(out)
        if as_json:
            say_json(found)
        else:
            if watch:
                click.clear()
            for line in status_lines(found, out):
                click.echo(line)
        if not watch or not found["alive"]:
            return 0
        time.sleep(2)
