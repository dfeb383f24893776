"""convert plan"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.common import (
    EPILOG,
    force_option,
    json_option,
    out_option,
    recipe_argument,
    reports_errors,
    say_json,
    say_problems,
    verbose_option,
)
from convert.json_types import JsonDict

if TYPE_CHECKING:
    from convert.steps import Plan


@click.command("plan", epilog=EPILOG)
@recipe_argument
@out_option
@force_option
@json_option
@verbose_option
@click.option("--explain-types", is_flag=True, help="Show the type of every tensor and the rule that picked it.")
@reports_errors
def command(recipe: Path, out: Path, force: tuple[str, ...], as_json: bool, verbose: bool, explain_types: bool) -> int:
    """Say what a run would do, why, and what would stop it. Starts nothing."""
    from convert.plan import plan
    from convert.recipe import load_recipe

    planned = plan(load_recipe(recipe), out, force=force)
    if as_json:
        say_json(_plan_json(planned, explain_types))
    else:
        from convert.cli.console import show_plan

        show_plan(planned, verbose, explain_types)
        say_problems(planned.problems, False, 2)
    return 2 if planned.problems else 0


def _plan_json(planned: Plan, types: bool = False) -> JsonDict:
    from convert.cli.console import tensor_types

    keys = ("file", "tensor", "type", "rule")
    steps = planned.steps if types else ()
    chosen = [dict(zip(keys, row, strict=True)) for step in steps for row in tensor_types(planned, step)]
    return {
        "recipe": planned.recipe.name,
        "folder": str(planned.folder),
        "steps": [step.to_json() for step in planned.steps],
        "write_bytes": planned.write_bytes,
        "free_bytes": planned.free_bytes,
        "notes": list(planned.notes),
        **({"types": chosen} if types else {}),
        "problems": [str(problem) for problem in planned.problems],
    }
