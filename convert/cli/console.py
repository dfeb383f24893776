"""How plans, runs and files look on a terminal. Used by the command line alone."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convert.json_types import JsonObject
from convert.table import size

if TYPE_CHECKING:
    from convert.bundle import Artifact
    from convert.events import Event, OnEvent
    from convert.formats.facts import Facts
    from convert.inspection.checkpoint import CheckpointInspection
    from convert.inspection.preview import Preview, Reference
    from convert.run import Result
    from convert.steps import Plan, Step

PLAIN_SECONDS = 10.0  # how often a long task says how far it is where there is no terminal


class ReaderGone(BaseException):
    """Who read our output went away (`| head`). No Exception: a stage that emits progress has not failed."""


@contextlib.contextmanager
def event_printer(*, as_json: bool, quiet: bool, verbose: bool) -> Iterator[OnEvent]:
    """Something that shows a run's events: JSON lines, bars on a terminal, plain lines elsewhere, or nothing."""
    if as_json:
        yield _until_closed(lambda event: click.echo(event_line(event)))
    elif quiet:
        yield _until_closed(_warning)
    elif sys.stdout.isatty():
        with _bars(verbose) as on_event:
            yield on_event
    else:
        yield _until_closed(_Plain(verbose))


def event_line(event: Event) -> str:
    """The event as one line of JSON."""
    return json.dumps({"event": event.kind, "step": event.step, **event.data}, ensure_ascii=False)


def _until_closed(on_event: OnEvent) -> OnEvent:
    """`on_event`, raising ReaderGone once nobody reads what it prints."""

    def emit(event: Event) -> None:
        try:
            on_event(event)
        except BrokenPipeError:
            raise ReaderGone from None

    return emit


def _warning(event: Event) -> None:
    if event.kind == "warning":
        click.echo(f"warning: {event.data['text']}", err=True)


def step_line(event: Event) -> str:
    """The line that a step's beginning or end deserves; empty for all other events."""
    data = event.data
    if event.kind == "step_started":
        return f"{event.step}: {data['reason']}"
    if event.kind == "step_skipped":
        return f"{event.step}: {data['reason']}"
    if event.kind == "step_finished":
        made = ", ".join(f"{Path(f['path']).name} {size(f['size'])}" for f in data["files"])
        return f"{event.step}: done in {data['seconds']:.1f} s" + (f" ({made})" if made else "")
    return ""


class _Plain:
    """Lines for logs and pipes: one when a task starts, and one now and then; each begins with its step."""

    def __init__(self, verbose: bool) -> None:
        self._verbose = verbose
        self._last: dict[str, float] = {}  # when each step's task was last shown

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        _warning(event)
        if line := step_line(event):
            click.echo(line)
        elif event.kind == "task":
            self._last[event.step] = now
            if event.data["total"]:
                click.echo(f"{event.step}:   {event.data['what']}")
        elif event.kind == "progress" and event.step in self._last:
            if now - self._last[event.step] >= PLAIN_SECONDS:
                self._last[event.step] = now
                click.echo(f"{event.step}:   {event.data['what']} {_how_far(event.data)}")
        elif event.kind == "note" and self._verbose:
            click.echo(f"{event.step}:   {event.data['text']}")


def _how_far(data: JsonObject) -> str:
    """Of a progress event: how much is done, how fast, for how long; the time alone where there is nothing to count."""
    done, total, seconds = data["done"], data["total"], data["seconds"]
    if not total:
        return f"{seconds:.0f} s"
    if data["unit"] == "B":
        return f"{size(done)} of {size(total)}, {size(done / max(seconds, 0.1))}/s, {seconds:.0f} s"
    rate = done / max(seconds, 0.1)
    speed = f", {rate:.0f} {data['unit']}/s" if rate >= 1 else ""
    return f"{done} of {total} {data['unit']}{speed}, {seconds:.0f} s"


@contextlib.contextmanager
def _bars(verbose: bool) -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[far]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bars: dict[str, TaskID] = {}  # of each step that runs

        def clear(step: str) -> None:
            if step in bars:
                progress.remove_task(bars.pop(step))

        def on_event(event: Event) -> None:
            if event.kind == "task":
                clear(event.step)
                what = escape(f"{event.step}: {event.data['what']}")
                bars[event.step] = progress.add_task(what, total=event.data["total"] or None, far="")
            elif event.kind == "progress" and event.step in bars:
                progress.update(bars[event.step], completed=event.data["done"], far=_how_far(event.data))
            elif line := step_line(event):
                clear("plan")  # which is over once a step begins
                clear(event.step)
                console.print(escape(line))
            elif event.kind == "warning":
                console.print(f"[yellow]warning:[/] {escape(str(event.data['text']))}")
            elif event.kind == "note" and verbose:
                console.print(escape(f"{event.step}:   {event.data['text']}"))

        yield on_event


def show_plan(planned: Plan, verbose: bool, types: bool = False) -> None:
    """Steps, what each will do and why, what will be written, and what the plan wants noted.

    With `types` also every tensor's type and the rule that picked it.
    """
    rows = [
        (
            *(step.name, step.spec.use, "skip" if step.up_to_date else "run"),
            *(_bytes_of(step), _memory_of(step), _time_of(step), step.reason),
        )
        for step in planned.steps
    ]
    click.echo(f"{planned.recipe.name} -> {planned.folder}")
    heads = ("step", "stage", "does", "writes", "memory", "time", "why")
    show_table(heads, rows, right=("writes", "memory", "time"))
    for step in planned.steps:
        if step.bundle is not None and (names := _files_of(step)):
            click.echo(f"\n{step.name}:")
            for line in names:
                click.echo(f"  {line}")
        if step.bundle is None:
            click.echo(f"\n{step.name}: {_options_of(step)}")
        elif verbose:
            for line in step.explain(planned.inputs(step)):
                click.echo(f"  {line}")
        if types and step.bundle is not None:
            _show_types(tensor_types(planned, step))
    click.echo(f"\n{_total_time(planned)}")
    click.echo(f"writes {size(planned.write_bytes)}; {size(planned.free_bytes)} are free on that disk")
    for note in planned.notes:
        click.echo(f"note: {note}")


def tensor_types(planned: Plan, step: Step) -> list[tuple[str, str, str, str]]:
    """File, tensor, type and rule for all a step will write; empty for stages that choose no types."""
    if step.bundle is None:
        return []
    return list(step.stage.tensor_types(step.spec.options, planned.inputs(step)))


def _show_types(rows: Sequence[tuple[str, str, str, str]]) -> None:
    for file in dict.fromkeys(row[0] for row in rows):
        click.echo(f"\n{file}:")
        show_table(("tensor", "type", "rule"), [row[1:] for row in rows if row[0] == file])


def _bytes_of(step: Step) -> str:
    return "-" if step.up_to_date or not step.key else size(step.write_bytes)


def _memory_of(step: Step) -> str:
    return "-" if step.up_to_date or not step.key else f"~{size(step.needs.memory_bytes)}"


def _time_of(step: Step) -> str:
    return "-" if step.up_to_date or step.seconds is None else f"~{duration(step.seconds)}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 4 min, 2 h 10 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _total_time(planned: Plan) -> str:
    """How long the run will take one step after the other, by what earlier runs took here."""
    todo = [step for step in planned.steps if not step.up_to_date and not step.left_out]
    known = [step.seconds for step in todo if step.seconds is not None]
    lacking = sorted({step.spec.use for step in todo if step.seconds is None})
    if not todo:
        return "takes no time: all is up to date"
    said = f"takes about {duration(sum(known))}, by earlier runs on this machine" if known else ""
    none = f"no time estimate for {', '.join(lacking)}: not run on this machine before" if lacking else ""
    return "; ".join(filter(None, (said, none)))


def _options_of(step: Step) -> str:
    """What the recipe asks of a step whose files cannot be named yet."""
    options = step.spec.options
    fields = type(options).model_fields
    said = {fields[name].alias or name: v for name, v in sorted(options) if name in options.model_fields_set}
    return "; ".join(f"{name} {_in_words(value)}" for name, value in said.items())


def _in_words(value: Any) -> str:
    """An option's value as a recipe might say it; of a nested one, what was said."""
    if hasattr(value, "model_fields_set"):
        set_ = (name for name in type(value).model_fields if name in value.model_fields_set)
        return " ".join(f"{name} {_in_words(getattr(value, name))}" for name in set_)
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        return "/".join(map(str, value))  # a range
    return ", ".join(map(_in_words, value)) if isinstance(value, list | tuple | dict) else str(value)


def _files_of(step: Step) -> list[str]:
    made = step.bundle.artifacts() if step.bundle else ()
    mine = [a for _, a in made if a.path.is_relative_to(step.out)]
    return [f"{a.path.name:<40} {size(a.size):>8}" for a in mine]


def show_result(result: Result) -> None:
    """The table of outputs with the report's verdicts, the reasons, and where everything lies."""
    from convert.registry import VALIDATE
    from convert.table import report_lines

    if not result.ran:
        click.echo("nothing to do: every step is up to date")
    if result.report is None:
        for artifact in _made(result):
            click.echo(f"  {_shown(artifact.path)}  {size(artifact.size)}")
        click.echo("not validated: the recipe has no `validate:` section")
        return
    click.echo("")
    for line in report_lines(result.report, colour=colour()):
        click.echo(line)
    if not result.passed and VALIDATE not in result.ran:
        click.echo(f"measured by an earlier run; `--force {VALIDATE}` measures again")
    pages = [path for name in ("report.html", "report.md") if (path := result.folder / name).is_file()]
    for word, path in zip(("report:", "       "), pages, strict=False):
        click.echo(f"{word} {_shown(path)}")


def colour() -> bool:
    """Whether the one who reads wants colours: a terminal, and not told otherwise (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _made(result: Result) -> Iterator[Artifact]:
    for bundle in result.bundles.values():
        yield from (a for _, a in bundle.artifacts() if a.path.is_relative_to(result.folder))


def _shown(path: Path) -> str:
    """The path as the user would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def show_table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], right: tuple[str, ...] = ()) -> None:
    """Columns as wide as they need to be."""
    from convert.table import aligned

    for line in aligned(heads, rows, right):
        click.echo(line)


def show_stages() -> None:
    """Every stage with its options: name, type, default, meaning."""
    from convert import registry
    from convert.formats.base import SOURCE
    from convert.options import words_of
    from convert.registry import VALIDATE

    for name in registry.names():
        stage = registry.load(name)
        section = {SOURCE: "model:", VALIDATE: "validate:"}.get(name, f"use: {name}")
        click.echo(f"{section}\n  {stage.title}")
        for option, info in words_of(stage.Options).items():
            default = None if info.is_required() else info.get_default(call_default_factory=True)
            shown = "required" if info.is_required() else "optional" if default is None else f"default {default!r}"
            click.echo(f"    {option:<20} {shown}" + (f"; {info.description}" if info.description else ""))
        click.echo("")


def show_inspection(inspection: Facts | CheckpointInspection, verbose: bool) -> None:
    """Totals, metadata and tensors of a file, or what a checkpoint is; long values are cut unless verbose."""
    for line in inspection.lines(verbose=verbose):
        click.echo(line)


def show_preview(previews: Iterable[Preview | Reference], verbose: bool) -> None:
    """What each stage would make, as soon as it is known; a problem is spelled out once."""
    said: dict[tuple[str, ...], str] = {}
    for word in previews:
        first = said.setdefault(word.problems, word.label)
        like = {"like": first} if word.problems and first != word.label else {}
        for line in word.lines(verbose=verbose, **like):
            click.echo(line)
