"""What `convert batch --dry-run` prints: a line a model, and what all of them take."""

from __future__ import annotations

import shutil
from collections import Counter
from typing import TYPE_CHECKING

import click

from convert.cli.common import say_json
from convert.cli.console import duration, show_table
from convert.table import NOTHING, plain, size

if TYPE_CHECKING:
    from convert.batch.api import Batch
    from convert.batch.forecast import Forecast


def show_plans(made: Batch, *, as_json: bool) -> int:
    """Plan every model and say what it takes; the exit code: 2 where one cannot run."""
    from convert.batch.forecast import forecasts, to_json

    order = {job.name: number for number, job in enumerate(made.jobs)}
    found = sorted(forecasts(made), key=lambda forecast: order[forecast.name])
    if as_json:
        say_json(to_json(made, found))
    else:
        _show(made, found)
    return 2 if any(forecast.problems for forecast in found) else 0


def _show(made: Batch, found: list[Forecast]) -> None:
    from convert.batch.forecast import total
    from convert.steps import existing_folder

    for problem in made.left_out:
        click.echo(f"warning: left out: {problem}", err=True)
    heads = ("model", "does", "steps", "writes", "memory", "time", "source")
    show_table(heads, [_row(forecast) for forecast in found], right=("steps", "writes", "memory", "time"))
    counts = Counter(forecast.state for forecast in found)
    click.echo(f"\n{', '.join(f'{number} {state}' for state, number in counts.items())}")
    whole, free = total(made, found), shutil.disk_usage(existing_folder(made.out)).free
    downloads = f", {size(whole.download_bytes)} of them downloaded" if whole.download_bytes else ""
    click.echo(f"disk: {size(whole.peak_bytes)} at its peak{downloads}; {size(free)} are free")
    budget = f"; {size(whole.budget_bytes)} for all at a time" if whole.budget_bytes else ""
    click.echo(f"memory: {size(whole.memory_bytes)} for the largest step{budget}")
    known = f"about {duration(whole.seconds)}" if whole.seconds is not None else "not known"
    lacking = f", without {whole.unknown} models whose time is not known here" if whole.unknown else ""
    click.echo(f"time: {known} with {made.settings.models_at_a_time} at a time{lacking}")
    for forecast in found:
        for said in forecast.problems:
            click.echo(f"error: {plain(forecast.name)}: {plain(said)}", err=True)


def _row(forecast: Forecast) -> tuple[str, ...]:
    took = NOTHING if not forecast.steps or forecast.seconds is None else f"~{duration(forecast.seconds)}"
    memory = f"~{size(forecast.memory_bytes)}" if forecast.memory_bytes else NOTHING
    writes = size(forecast.write_bytes) if forecast.write_bytes else NOTHING
    source = f"{forecast.model}" + (f" ({size(forecast.download_bytes)})" if forecast.download_bytes else "")
    return (plain(forecast.name), forecast.state, str(forecast.steps), writes, memory, took, plain(source))
