"""What a batch looks like while it runs: a table that lives on a terminal, plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.cli.batch_status import how_far
from convert.cli.common import INTERRUPTED, say_json
from convert.cli.console import _until_closed, colour, duration, event_line
from convert.table import NOTHING, aligned, plain, scientific, size, styled

if TYPE_CHECKING:
    from rich.table import Table

    from convert.batch.api import Batch
    from convert.batch.results import ModelResult
    from convert.events import Event, OnEvent
    from convert.json_types import JsonDict, JsonObject

    Run = Callable[[Batch, OnEvent], Iterable[ModelResult]]

SHOWN = 12  # models that run, on a terminal
WORDS = {"passed": "passed", "made": "passed", "missed": "failed", "failed": "failed"}  # a status as a verdict's colour


def carry_out(made: Batch, *, as_json: bool, quiet: bool, verbose: bool, run: Run | None = None) -> int:
    """Run the batch, by `run` where that is given, shown as it goes on; the exit code."""
    from convert.batch.api import exit_code

    for problem in made.left_out:
        click.echo(f"warning: left out: {problem}", err=True)
    found = list(made.earlier)
    try:
        with printer(as_json=as_json, quiet=quiet, verbose=verbose) as on_event:
            found += made.run(on_event) if run is None else run(made, on_event)
    except KeyboardInterrupt:
        click.echo("stopped; what is done is kept, the next batch continues after it", err=True)
        return INTERRUPTED
    code = exit_code(found if run is None else found[len(made.earlier) :])  # a watch has failed only where today's do
    if as_json:
        say_json({"event": "finished", "exit_code": code, "models": [result.to_json() for result in found]})
    elif not quiet:
        show_results(made, found)
    return code


@contextlib.contextmanager
def printer(*, as_json: bool, quiet: bool, verbose: bool) -> Iterator[OnEvent]:
    """Something that shows a batch's events."""
    import sys

    if as_json:
        yield _until_closed(lambda event: click.echo(event_line(event)))
    elif quiet:
        yield _until_closed(_errors)
    elif sys.stdout.isatty():
        with _live() as on_event:
            yield on_event
    else:
        yield _until_closed(_Lines(verbose))


def _errors(event: Event) -> None:
    if event.kind in ("warning", "paused"):
        click.echo(f"warning: {_of(event)}{event.data['text']}", err=True)


def _of(event: Event) -> str:
    return f"{event.data['model']}: " if "model" in event.data else ""


def batch_line(event: Event) -> str:
    """The line that an event of the batch itself deserves; empty for those of steps."""
    data = event.data
    match event.kind:
        case "batch":
            return f"{data['models']} models, {data['at_a_time']} at a time -> {data['out']}"
        case "model_started":
            again = f", attempt {data['attempt']}" if data["attempt"] > 1 else ""
            return f"{data['model']}: {'downloads' if data['what'] == 'fetch' else 'begins'} ({data['source']}){again}"
        case "model_retried":
            after = f" in {duration(data['wait'])}" if data["wait"] else ""
            return f"{data['model']}: tried again{after}, {data['failure']}: {data['problems'][0]}"
        case "model_finished":
            return f"{data['model']}: {finished_words(data)}"
        case "paused" | "resumed" | "queued":
            return str(data["text"])
    return ""


def finished_words(data: JsonObject) -> str:
    """What came of a model, in a line."""
    if data["status"] == "failed":
        return f"failed after {duration(data['seconds'])}: {'; '.join(data['problems'])}"
    if not data["ran"]:
        return f"{data['status']}, was up to date"
    sizes = size(sum(output["size_bytes"] for output in data["outputs"]))
    where = f", published at {', '.join(data['released'])}" if data["released"] else ""
    return f"{data['status']} in {duration(data['seconds'])}, {len(data['outputs'])} outputs, {sizes}{where}"


class _Lines:
    """Plain lines for logs and pipes, each beginning with its model."""

    def __init__(self, verbose: bool) -> None:
        self._verbose, self._done, self._models = verbose, 0, 0

    def __call__(self, event: Event) -> None:
        if event.kind == "warning":
            click.echo(f"warning: {_of(event)}{plain(event.data['text'])}", err=True)
        elif event.kind == "batch":
            self._models = event.data["models"]
        if line := batch_line(event):
            self._done += event.kind == "model_finished"
            count = f"[{self._done}/{self._models}] " if event.kind == "model_finished" else ""
            click.echo(f"{count}{plain(line)}")
        elif self._verbose and (said := _step_line(event)):
            click.echo(plain(said))


def _step_line(event: Event) -> str:
    if event.kind == "step_started":
        return f"{event.data['model']}: {event.step} begins"
    if event.kind == "step_finished":
        return f"{event.data['model']}: {event.step} done in {event.data['seconds']:.1f} s"
    return f"{_of(event)}{event.data['text']}" if event.kind == "note" else ""


@contextlib.contextmanager
def _live() -> Iterator[OnEvent]:
    from rich.console import Console
    from rich.live import Live
    from rich.markup import escape

    console = Console(highlight=False)
    view = LiveView()
    lock = threading.Lock()
    with Live(get_renderable=view.table, console=console, refresh_per_second=4, transient=True):

        def on_event(event: Event) -> None:
            with lock:
                view.take(event)
            if event.kind == "warning":
                console.print(f"[yellow]warning:[/] {escape(plain(_of(event) + event.data['text']))}")
            elif event.kind != "model_started" and (line := batch_line(event)):
                console.print(escape(plain(line)))

        yield on_event


class LiveView:
    """What a terminal shows: how many models, and what each that runs is at."""

    def __init__(self) -> None:
        self.models = self.at_a_time = 0
        self.counts: Counter[str] = Counter()
        self.running: dict[str, JsonDict] = {}
        self.began = time.monotonic()
        self.paused = ""
        self.built: list[float] = []  # seconds

    def take(self, event: Event) -> None:
        """Follow an event."""
        data = event.data
        model = str(data.get("model", ""))
        if event.kind == "batch":
            self.models, self.at_a_time = data["models"], data["at_a_time"]
        elif event.kind == "model_started":
            self.running[model] = {"step": "", "waits_for": "", "began": time.monotonic()}
        elif event.kind in ("model_finished", "model_retried"):
            self.running.pop(model, None)
            if event.kind == "model_finished":
                self.counts[data["status"]] += 1
                self.built += [data["seconds"]] if data["ran"] else []
        elif event.kind in ("paused", "resumed"):
            self.paused = str(data["text"]) if event.kind == "paused" else ""
        elif model in self.running and event.kind in ("task", "progress", "step_started", "step_finished"):
            kept = {word: data[word] for word in ("what", "done", "total") if word in data}
            self.running[model] = {"waits_for": "", "began": self.running[model]["began"], "step": event.step, **kept}

    def head(self) -> str:
        """The line above the models that run."""
        done = sum(self.counts.values())
        counts = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        seconds = max(time.monotonic() - self.began, 1e-3)
        rate = f"{60 * done / seconds:.3g} a minute" if done else ""
        left = self.models - done
        guess = sum(self.built) / len(self.built) * left / min(self.at_a_time, left) if self.built and left else 0
        soon = f"about {duration(guess)} left" if guess else ""
        return "  ".join(filter(None, (f"{done} of {self.models} models", counts, rate, soon)))

    def table(self) -> Table:
        """All of it, drawn anew."""
        from rich.markup import escape
        from rich.table import Table

        table = Table.grid(padding=(0, 2))
        table.add_row(f"[bold]{escape(self.head())}[/]")
        if self.paused:
            table.add_row(f"[yellow]{escape(self.paused)}[/]")
        for name, task in list(self.running.items())[:SHOWN]:
            took = time.monotonic() - task["began"]
            table.add_row(f"  {escape(plain(name))}: {escape(plain(how_far({**task, 'took': took})))}")
        if len(self.running) > SHOWN:
            table.add_row(f"  and {len(self.running) - SHOWN} more")
        return table


# ---- the end


def show_results(made: Batch, found: list[ModelResult]) -> None:
    """The table of models and outputs, why some failed, and where the summary lies."""
    heads = ("model", "output", "size", "mean KL", "time", "verdict")
    rows: list[tuple[str, ...]] = []
    names = {job.name: number for number, job in enumerate(made.jobs)}
    for result in sorted(found, key=lambda r: names.get(r.name, -1)):
        rows += _rows(result)
    click.echo("")
    first, second, *lines = aligned(heads, rows, right=("size", "mean KL", "time"))
    click.echo(f"{first}\n{second}")
    for line, row in zip(lines, rows, strict=True):
        word = row[-1]
        click.echo(line.removesuffix(word) + styled(word, WORDS.get(word, word), colour()))
    count = Counter(result.status for result in found)
    pending = len(made.jobs) - len({r.name for r in found} & names.keys())
    said = [f"{number} {status}" for status, number in count.items()] + [f"{pending} not begun"] * bool(pending)
    click.echo(f"\n{', '.join(said)}")
    for result in found:
        for problem in result.problems:
            click.echo(f"{styled('failed', 'failed', colour())}: {plain(result.name)}: {plain(problem)}")
        for output in result.outputs:
            if output.verdict not in ("", "passed"):
                said_so = styled(output.verdict, output.verdict, colour())
                click.echo(f"{said_so}: {plain(result.name)}: {plain(output.label)}: {plain(output.reason)}")
    click.echo(f"summary: {_shown(made.out / 'summary.html')}")


def _rows(result: ModelResult) -> Iterator[tuple[str, ...]]:
    took = duration(result.seconds) if result.ran or result.status == "failed" else "up to date"
    if not result.outputs:
        yield plain(result.name), NOTHING, NOTHING, NOTHING, took, result.status
    for number, output in enumerate(result.outputs):
        drift = NOTHING if output.kl_mean is None else scientific(output.kl_mean)
        shown = (plain(result.name), took) if number == 0 else ("", "")
        yield shown[0], plain(output.label), size(output.size_bytes), drift, shown[1], output.verdict or result.status


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
