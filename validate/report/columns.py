"""The table of outputs: which columns there are, and what stands in a row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from validate.report.outputs import ends
from validate.report.schema import Output, Report
from validate.report.words import NOTHING, Formatter, fixed, percent, rate, scientific, scientific_range, size_unit


@dataclass(frozen=True)
class Column:
    """A column of numbers. `path` is where the number is in an output of report.json: `metrics.kl_mean`."""

    path: str
    heading: str
    unit: str
    better: str  # "lower", "higher", or empty where neither is
    show: Formatter
    scale: float = 1.0  # what a shown number is multiplied by to get report.json's
    meaning: str = ""

    @property
    def interval(self) -> str:
        """The metric whose interval stands below the number."""
        return self.path.removeprefix("metrics.")


@dataclass(frozen=True)
class Cell:
    """What a cell shows; `value` is report.json's own number, None where there is none."""

    column: Column
    value: float | None
    text: str
    below: str


def lookup(output: Output, path: str) -> float | None:
    """The number at a path of an output, None where a step of it is missing."""
    found: object = output
    for step in path.split("."):
        found = found.get(step) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) else None


def columns(report: Report) -> list[Column]:
    """The columns of which at least one output has a number."""
    outputs = report["outputs"]
    return [c for c in _all(outputs) if any(lookup(o, c.path) is not None for o in outputs)]


def cells(output: Output, shown: Sequence[Column]) -> list[Cell]:
    """One row."""
    return [_cell(output, column) for column in shown]


def _cell(output: Output, column: Column) -> Cell:
    value = lookup(output, column.path)
    if value is None:
        return Cell(column, None, NOTHING, "")
    interval = ends(output, column.interval)
    below = ""
    if interval is not None:
        below = _range(column, *interval)
    return Cell(column, value, column.show(value / column.scale), below)


def _range(column: Column, low: float, high: float) -> str:
    """Both ends; nothing where the digits shown do not tell them apart."""
    if column.show is scientific:
        return scientific_range(low, high)
    ends = [column.show(end / column.scale) for end in (low, high)]
    return "" if ends[0] == ends[1] else "–".join(ends)


def _share(value: float) -> str:
    return percent(value / 100)


def _top(value: float) -> str:
    return percent(value / 100, 2)


def _all(outputs: Sequence[Output]) -> tuple[Column, ...]:
    size, size_scale = size_unit(o["size_bytes"] for o in outputs)
    memories = [m for o in outputs if (m := lookup(o, "speed.peak_memory_bytes")) is not None]
    memory, memory_scale = size_unit(memories)
    clicks = _of_source(lookup(o, "metrics.click_rate_reference") for o in outputs)
    calls = _of_source(
        c["valid_reference"] / c["asked"] for o in outputs if (c := o["tool_calls"]) is not None and c["asked"]
    )
    speed, part = "speed.", 0.01
    return (
        Column("size_bytes", "Size", size, "lower", fixed(2), size_scale, "all files but the projector"),
        Column("bits_per_weight", "Bits per weight", "", "lower", fixed(2), 1.0, "of the whole file"),
        Column("metrics.kl_mean", "KL", "nats, mean", "lower", scientific, 1.0, "drift from the source"),
        Column("metrics.top1", "Same top token", "%", "higher", _top, part, "of all positions"),
        Column("metrics.ppl_ratio", "Perplexity", "× source", "lower", fixed(4), 1.0, "below 1 is chance"),
        Column(
            "metrics.embedding_cosine", "Cosine", "worst text", "higher", fixed(5), 1.0, "embeddings to the source's"
        ),
        Column(
            "metrics.embedding_cosine_mean", "Cosine", "mean", "higher", fixed(5), 1.0, "embeddings to the source's"
        ),
        Column("metrics.score_error", "Scores", "error", "lower", scientific, 1.0, "of how the source's differ"),
        Column("metrics.rank_agreement", "Same order", "%", "higher", _top, part, "of pairs of texts told apart"),
        Column("metrics.click_rate", "Clicks hit", f"%{clicks}", "higher", _share, part, "held-out screenshots"),
        Column(
            "metrics.tool_calls_valid",
            "Tool calls",
            f"%{calls}",
            "higher",
            _share,
            part,
            "valid ones, of those asked for",
        ),
        Column(speed + "prefill_tokens_per_second", "Prefill", "tok/s", "higher", rate, 1.0, "indicative"),
        Column(speed + "decode_tokens_per_second", "Decode", "tok/s", "higher", rate, 1.0, "indicative"),
        Column(
            speed + "peak_memory_bytes",
            "Peak memory",
            memory,
            "lower",
            fixed(int(memory == "GB")),
            memory_scale,
            "indicative",
        ),
    )


def _of_source(shares: Iterable[float | None]) -> str:
    """` (source 95.0)`, where that is known."""
    known = next((share for share in shares if share is not None), None)
    return "" if known is None else f" (source {percent(known)})"
