"""convert batch"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.common import json_option, out_option, quiet_option, reports_errors, verbose_option

if TYPE_CHECKING:
    from convert.batch.options import Limits
    from convert.batch.request import Request

EPILOG = (
    "Exit codes: 0 all good, 1 some models failed, 2 a line, a recipe or the usage is wrong (nothing was started), "
    "3 only validation limits were missed, 130 stopped by Ctrl-C."
)
SHARED = ("jobs", "downloads", "retries", "memory", "disk")


class Size(click.ParamType):
    """A number of bytes: 16GB."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        from convert.batch.options import bytes_of

        try:
            return bytes_of(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("batch", epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="[BATCH.yaml | MODEL | RECIPE.yaml]...")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What to make; repeatable.",
)
@click.option(
    "--models",
    "lists",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="A list of models: .txt, .csv or .jsonl, with variables for the recipe.",
)
@out_option
@click.option("--dry-run", is_flag=True, help="Say what each model would take, and start nothing.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are wrong, and run the others.")
@click.option("--only", type=click.Choice(["failed", "missed", "pending"]), help="Those of the last batch alone.")
@click.option("--max-models", type=click.IntRange(1), metavar="N", help="Build at most so many, and leave the others.")
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="Begin no other model after so many failed.")
@click.option("--order", type=click.Choice(["listed", "small-first", "large-first"]), help="Which models come first.")
@click.option("--keep", type=click.Choice(["all", "outputs", "report"]), help="What stays once a model is done.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Models at a time; one a core when left out.")
@click.option("--downloads", type=click.IntRange(1), metavar="N", help="Models that are downloaded at a time; 2.")
@click.option("--memory", type=Size(), help="Memory of all steps at a time; most of what is free when left out.")
@click.option("--disk", type=Size(), help="Disk of what is being made at a time; all that is free when left out.")
@click.option("--retries", type=click.IntRange(0), metavar="N", help="Tries more after a failure that may pass; 3.")
@click.option(
    "--engine",
    metavar="local|ray|auto|ray://HOST:PORT",
    default="local",
    show_default=True,
    help="Where models are converted: here; in Ray started here; in this machine's cluster; in one elsewhere.",
)
@click.option(
    "--store",
    metavar="URL",
    default="",
    help="Keep what steps make there, by their keys: s3://bucket/prefix, a folder. Machines then need no shared disk.",
)
@click.option("--node-cache", type=Size(), help="With --store: what each machine keeps of it; all when left out.")
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(
    words: tuple[str, ...], recipes: tuple[Path, ...], lists: tuple[Path, ...], out: Path, **how: object
) -> int:
    """Convert many models: every one as `convert run` would, one table in the end.

    A word is a folder, a pattern of folders, a model of the hub (org/name[@revision]), a recipe that names its model,
    or one batch.yaml that says it all. What is done already is not done again.
    """
    from dataclasses import replace

    from convert.batch.api import prepare
    from convert.batch.request import request_of

    request = request_of(words, recipes, lists)
    request = replace(request, limits=_limits(request, how), order=how["order"] or request.order)  # type: ignore[arg-type]
    keep, only = how["keep"] or request.keep, str(how["only"] or "")
    made = prepare(request, out, skip_bad=bool(how["skip_bad"]), only=only, keep=keep)  # type: ignore[arg-type]
    most, failures = how["max_models"], how["stop_after"]
    made = replace(made, max_models=most, stop_after=failures, engine=_engine(str(how["engine"])))  # type: ignore[arg-type]
    made = replace(made, store=str(how["store"]), node_cache=how["node_cache"])  # type: ignore[arg-type]
    if how["dry_run"]:
        from convert.cli.batch_plan import show_plans

        return show_plans(made, as_json=bool(how["as_json"]))
    from convert.cli.batch_view import carry_out

    return carry_out(made, as_json=bool(how["as_json"]), quiet=bool(how["quiet"]), verbose=bool(how["verbose"]))


def _engine(word: str) -> str:
    if word not in ("local", "ray", "auto") and not word.startswith("ray://"):
        raise click.BadParameter(f"{word!r}, wanted local, ray, auto or ray://HOST:PORT", param_hint="--engine")
    return word


def _limits(request: Request, how: dict[str, object]) -> Limits:
    """The request's limits, with those of the command line in their place."""
    return request.limits.model_copy(update={word: how[word] for word in SHARED if how[word] is not None})
