"""convert stages"""

from __future__ import annotations

import click

from convert.cli.common import reports_errors


@click.command("stages")
@reports_errors
def command() -> int:
    """List what a recipe can say in `use:`, with the options of each."""
    from convert.cli.console import show_stages

    show_stages()
    return 0
