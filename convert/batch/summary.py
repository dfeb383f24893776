"""The table of a batch: OUT/summary.json, .csv and .html, a row for each model and output."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from convert.batch.changes import Change, changes
from convert.batch.journal import Journal, moment
from convert.batch.page import to_html
from convert.batch.results import ModelResult, Output
from convert.files import replace_text
from convert.json_types import JsonDict

SCHEMA_VERSION = 1
COLUMNS = (
    *("name", "model", "recipe", "status", "output", "type", "size_bytes", "kl_mean", "kl_low", "kl_high", "top1"),
    *("ppl_ratio", "verdict", "seconds", "attempts", "reason", "report", "where", "finished"),
)


def write_summary(out: Path, results: Sequence[ModelResult], journal: Journal) -> dict[str, int]:
    """Write the three files, each in one rename; how many models are passed, missed, failed …"""
    found = changes(results, journal.history())
    counts: dict[str, int] = dict(Counter(str(result.status) for result in results))
    replace_text(out / "summary.json", json.dumps(_json(results, found, counts), indent=1, ensure_ascii=False) + "\n")
    replace_text(out / "summary.csv", to_csv(results))
    replace_text(out / "summary.html", to_html(results, found, counts, moment()))
    return counts


def rows(results: Sequence[ModelResult]) -> Iterator[JsonDict]:
    """A row for each output; one for a model that has none."""
    for result in results:
        for output in result.outputs or (None,):
            yield _row(result, output)


def _row(result: ModelResult, output: Output | None) -> JsonDict:
    words = result.to_json()
    made = asdict(output) if output is not None else {}
    reason = result.reason if output is None else output.reason
    return {column: words.get(column, made.get(column)) for column in COLUMNS} | {
        "output": made.get("label", ""),
        "reason": reason,
    }


def to_csv(results: Sequence[ModelResult]) -> str:
    """The table for a spreadsheet; a text that one would take for a formula begins with an apostrophe."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows(results):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return stream.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t") else value


def _json(results: Sequence[ModelResult], found: Sequence[Change], counts: dict[str, int]) -> JsonDict:
    return {
        "schema_version": SCHEMA_VERSION,
        "finished": moment(),
        "counts": counts,
        "models": [result.to_json() for result in results],
        "changes": [asdict(change) for change in found],
    }
