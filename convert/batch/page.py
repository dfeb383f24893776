"""summary.html: one file that asks for nothing, readable without its script; it looks as report.html does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from convert.batch.changes import Change
from convert.batch.results import ModelResult, Output
from convert.table import NOTHING, plain, scientific, size
from validate.report.html.page import TEMPLATES as SHARED

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
WORDS = {
    "passed": "passed",
    "made": "made, not validated",
    "missed": "a limit missed",
    "failed": "failed",
    "left out": "left out",
    "pending": "not begun",
}
SAID = {"failed": "failed", "missed": "missed a limit", "left out": "left out", "pending": "not begun"}
PILLS = {"passed": "passed", "made": "passed", "missed": "failed", "failed": "failed"}  # else not_run
ORDER = ("failed", "missed", "left out", "pending", "made", "passed")


@dataclass(frozen=True)
class Row:
    """One row as it is drawn: what is shown, and what it is sorted by."""

    result: ModelResult
    output: Output | None
    first: bool  # of its model

    @property
    def verdict(self) -> str:
        return self.output.verdict if self.output is not None and self.output.verdict else self.result.status

    @property
    def pill(self) -> str:
        return {"passed": "passed", "failed": "failed"}.get(self.verdict, PILLS.get(self.verdict, "not_run"))

    @property
    def rank(self) -> int:
        return ORDER.index(self.result.status)

    @property
    def reason(self) -> str:
        said = self.result.reason if self.output is None else self.output.reason
        return plain(said)

    @property
    def link(self) -> str:
        return quote(self.result.report)


def to_html(results: Sequence[ModelResult], changes: Sequence[Change], counts: Mapping[str, int], when: str) -> str:
    """The page."""
    shown = [
        Row(result, output, number == 0)
        for result in results
        for number, output in enumerate(result.outputs or (None,))
    ]
    words = {
        "rows": shown,
        "changes": changes,
        "counts": [(status, counts[status], WORDS[status]) for status in ORDER[::-1] if counts.get(status)],
        "state": "bad" if counts.get("failed") or counts.get("missed") else "idle" if counts.get("pending") else "",
        "sentence": _sentence(counts),
        "models": sum(counts.values()),
        "bytes": sum(result.size_bytes for result in results),
        "outputs": sum(len(result.outputs) for result in results),
        "seconds": sum(result.seconds for result in results),
        "failed": [result for result in results if result.status in ("failed", "left out")],
        "when": when,
        "types": sorted({row.output.type for row in shown if row.output is not None and row.output.type}),
        "verdicts": sorted({row.verdict for row in shown}),
    }
    return _environment().get_template("summary.html").render(words)


def _sentence(counts: Mapping[str, int]) -> str:
    """What a reader wants to know first."""
    models = sum(counts.values())
    good = counts.get("passed", 0) + counts.get("made", 0)
    if good == models:
        return f"All {models} models are good" if models != 1 else "The model is good"
    said = [f"{count} {word}" for status, word in SAID.items() if (count := counts.get(status))]
    return f"Of {models} models {', '.join([*said, f'{good} good'])}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "scientific": scientific, "visible": plain, "duration": _duration}
    environment.globals |= {"nothing": NOTHING}
    return environment
