"""report.json -> report.html: one file, no network, readable without its script.

Every text is escaped where it is put in: the templates escape by themselves, and pictures are made with Markup.format.
"""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from validate.metrics import DEFINITIONS
from validate.report import cache_words, columns, fit_words, sections, standing_words, verdicts, words
from validate.report.build import to_json
from validate.report.html import gauge, images, predicted, scatter, spread
from validate.report.html.axes import FLOOR, colours, colours_dark, ten_to
from validate.report.outputs import short_names
from validate.report.reading_words import reading
from validate.report.schema import FileEntry, Report

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


def to_html(report: Report) -> str:
    """The page that a release is decided on, made of what report.json says: what was no number there is none here."""
    return _environment().get_template("report.html").render(_context(json.loads(to_json(report))))


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": words.visible,
        "token": words.token,
        "size": words.size,
        "count": words.count,
        "percent": words.percent,
        "chance": words.chance,
        "scientific": words.scientific,
        "plain": words.plain,
        "plural": words.plural,
        "listed": words.listed,
    }
    environment.globals |= {"nothing": words.NOTHING}
    return environment


def _context(report: Report) -> dict[str, object]:
    outputs, shown = report["outputs"], columns.columns(report)
    checks, differences = sections.checks(report), sections.differences(report)
    return {
        "report": report,
        "colours": colours(report),
        "colours_dark": colours_dark(report),
        "outputs": outputs,
        "numbered": list(enumerate(outputs)),
        "names": short_names(report),
        "marks": scatter.marks(report),
        "sentence": verdicts.sentence(outputs),
        "state": verdicts.state(outputs),
        "counts": verdicts.counts(outputs),
        "troubles": verdicts.troubles(report),
        "to_do": verdicts.to_do(report),
        "close_calls": verdicts.close_calls(report),
        "facts": verdicts.facts(report),
        "gates": [verdicts.gates(o) for o in outputs],
        "columns": shown,
        "cells": [columns.cells(o, shown) for o in outputs],
        "gauges": gauge.gauges(report),
        "frontier": {p.index for p in scatter.frontier(scatter.points(report))},
        "sized": len(scatter.points(report)) > 1,
        "scatters": scatter.scatters(report),
        "legend": scatter.legend(report),
        "spreads": spread.spreads(report),
        "floor": ten_to(round(math.log10(FLOOR))),
        "standings": standing_words.standings(report),
        "above": [standing_words.above_floor(o) for o in outputs],
        "noisy": bool(report.get("noise_floor")),
        "floors": standing_words.floors(report),
        "answers": standing_words.answers(report),
        "changes": standing_words.changes(report),
        "caches": cache_words.caches(report),
        "cache_method": cache_words.METHOD,
        "cache_facts": cache_words.FACTS,
        "fitted": fit_words.fitted(report),
        "fit_method": fit_words.METHOD,
        "fit_guessed": fit_words.GUESSED if fit_words.guessed(report) else "",
        "predicted": predicted.predicted(report),
        "slices": sections.slice_table(report),
        "maps": [(i, found) for i, o in enumerate(outputs) if (found := sections.tensor_map(o["tensors"]))],
        "did": (did := any(o["greedy"] or o["tool_calls"] or o["vision"]["clicks"] for o in outputs)),
        "acting": did or any(o["vision"]["images"] or o["vision"]["reason"] for o in outputs),
        "vision_rows": images.vision_rows(report),
        "furthest": _furthest(report),
        "checks": checks,
        "matrix": [sections.contract_marks(o, [name for name, _ in checks]) for o in outputs],
        "differences": [d for d in differences if d.missed],
        "notes": [d for d in differences if d.note and not d.missed],
        "meanings": _meanings(report),
        "files": _files(report),
        "tokens": sum(text["tokens"] for text in report["texts"]),
        "reading": list(reading(report)),
    }


def _meanings(report: Report) -> list[tuple[str, str]]:
    """What the metrics of this report mean, in the order they are defined."""
    measured = {name for o in report["outputs"] for name in (*o["metrics"], *o["limits"])}
    return [(name, definition.meaning) for name, definition in DEFINITIONS.items() if name in measured]


def _furthest(report: Report) -> int:
    """The output that drifts most: whose details are open when the page is."""
    drift = [o["metrics"].get("kl_mean") or 0.0 for o in report["outputs"]]
    return drift.index(max(drift)) if drift else 0


def _files(report: Report) -> list[FileEntry]:
    """Every file once: the source's, then those of the outputs."""
    every = [*report["reference"]["files"], *(file for o in report["outputs"] for file in o["files"])]
    return list({(file["path"], file["sha256"]): file for file in every}.values())
