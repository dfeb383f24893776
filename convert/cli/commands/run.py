"""convert run"""

from __future__ import annotations

from pathlib import Path

import click

from convert.cli.common import (
    EPILOG,
    carry_out,
    executor_option,
    force_option,
    jobs_option,
    json_option,
    out_option,
    quiet_option,
    recipe_argument,
    reports_errors,
    verbose_option,
)
from convert.cli.junit import junit_option


@click.command("run", epilog=EPILOG)
@recipe_argument
@out_option
@force_option
@jobs_option
@executor_option
@click.option("--verify", is_flag=True, help="Read every file again: what a disk has changed is made anew.")
@junit_option
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(
    recipe: Path,
    out: Path,
    force: tuple[str, ...],
    jobs: int | None,
    executor: str,
    verify: bool,
    junit: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> int:
    """Build what is out of date, validate every output, write the report."""
    from convert.recipe import load_recipe
    from convert.run import executors
    from convert.suggest import suggest

    if executor not in executors():
        said = f"there is no executor '{executor}'; {suggest(executor, executors())}"
        raise click.BadParameter(said, param_hint="--executor")
    words = {"as_json": as_json, "quiet": quiet, "verbose": verbose}
    return carry_out(
        load_recipe(recipe), out, force=force, jobs=jobs, executor=executor, junit=junit, verify=verify, **words
    )
