"""convert watch"""

from __future__ import annotations

import re
from pathlib import Path

import click

from convert.cli.commands.batch import Size
from convert.cli.common import json_option, out_option, quiet_option, reports_errors, verbose_option

EPILOG = (
    "Exit codes with --once: 0 all good or nothing new, 1 some models failed or the hub did not answer, 2 a line, a "
    "recipe or the usage is wrong, 3 only validation limits were missed; 130 stopped by Ctrl-C."
)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Span(click.ParamType):
    """A length of time: 15m."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if found is None or not float(found[1]):
            self.fail(f"{value!r} is no time: write 90s, 15m, 2h or 1d", param, ctx)
        return float(found[1]) * SECONDS[found[2]]


@click.command("watch", epilog=EPILOG)
@click.argument("words", nargs=-1, metavar="[ORG | ORG/NAME | LIST]...")
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What to make of each new model; repeatable.",
)
@out_option
@click.option("--filter", "filters", multiple=True, metavar="WORD=VALUE", help="name=Phi-*, tags=a,b, since=DATE, …")
@click.option("--every", type=Span(), default="15m", show_default=True, help="From the end of one look to the next.")
@click.option("--once", is_flag=True, help="Look once, convert what is new, and end: for cron.")
@click.option("--backlog", is_flag=True, help="Convert what is there at the first look too, not only what comes later.")
@click.option("--dry-run", is_flag=True, help="Look and queue, and convert nothing.")
@click.option("--skip-bad", is_flag=True, help="Leave out lines that are wrong, and watch the others.")
@click.option("--keep", type=click.Choice(["all", "outputs", "report"]), default="all", help="What stays of a model.")
@click.option("-j", "--jobs", type=click.IntRange(1), metavar="N", help="Models at a time; one a core when left out.")
@click.option("--memory", type=Size(), help="Memory of all steps at a time; most of what is free when left out.")
@click.option("--disk", type=Size(), help="Disk of what is being made at a time; all that is free when left out.")
@json_option
@quiet_option
@verbose_option
@reports_errors
def command(words: tuple[str, ...], recipes: tuple[Path, ...], out: Path, **how: object) -> int:
    """Convert each new model and revision of the hub as it comes: those of an owner, or of a list with filters.

    No revision is converted twice, whatever ends the watch; what was queued goes on with the next one.
    """
    import random
    import time

    from convert.batch.options import Limits
    from convert.batch.watch import Watcher, check
    from convert.batch.watch_list import watched
    from convert.errors import PlanError, raise_all
    from convert.lock import hold

    found = watched(words, how["filters"])  # type: ignore[arg-type]
    raise_all(() if how["skip_bad"] and found.watches else found.problems, PlanError)
    for problem in found.problems:
        click.echo(f"warning: left out: {problem}", err=True)
    check(found.watches, recipes)
    limits = Limits.model_validate({name: how[name] for name in ("jobs", "memory", "disk") if how[name] is not None})
    watcher = Watcher(out.absolute(), found.watches, recipes, bool(how["backlog"]), limits, how["keep"])  # type: ignore[arg-type]
    (watcher.state.folder / ".convert").mkdir(parents=True, exist_ok=True)
    with hold(watcher.state.folder):
        while True:
            code = _look(watcher, how)
            if how["once"] or how["dry_run"]:
                return code
            time.sleep(float(how["every"]) * random.uniform(0.95, 1.05))  # type: ignore[arg-type]


def _look(watcher: object, how: dict[str, object]) -> int:
    """Look once and convert what is queued; the exit code."""
    from convert.batch.watch import Watcher
    from convert.cli.batch_view import carry_out, printer

    assert isinstance(watcher, Watcher)
    shown = {word: bool(how[word]) for word in ("as_json", "quiet", "verbose")}
    with printer(**shown) as on_event:
        problems = watcher.look(on_event)
    for problem in problems:
        click.echo(f"warning: not looked at: {problem}", err=True)
    made = watcher.batch()
    if how["dry_run"] or made is None:
        if not (how["quiet"] or how["as_json"]):
            click.echo(f"{0 if made is None else len(made.jobs)} to convert")
        return 1 if problems else 0
    return carry_out(made, run=watcher.run, **shown) or (1 if problems else 0)
