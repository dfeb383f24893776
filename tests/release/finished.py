"""A finished run without a validation, and a report of it as validation would have written one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert import load_recipe, plan, run
from convert.release.rows import Made, Row
from validate.report.schema import SCHEMA_VERSION

RECIPE = """\
name: small
model: {path: Tiny-VL}
stages:
  gguf: {use: gguf, types: [F16, Q8_0], mmproj: F16}
"""
CARD = """\
---
license: apache-2.0
language: [en, de]
pipeline_tag: image-text-to-text
tags: [tiny]
---
# A tiny one
"""


def finish(place: Path, recipe: str = RECIPE) -> Path:
    """Run the recipe; the path of its file."""
    path = place / "r.yaml"
    path.write_text(recipe)
    run(plan(load_recipe(path), place / "out"))
    return path


def entry(row: Row, status: str = "passed", reason: str = "", **metrics: float) -> dict[str, Any]:
    """What a report says of an output."""
    weights = row.output.weights
    file = {"path": f"{row.output.stage}/{weights.path.name}", "size_bytes": weights.size, "sha256": weights.sha256}
    numbers = {"kl_mean": 1e-3 / weights.size * 1e6, "top1": 0.97, "ppl_ratio": 1.002, "click_rate": 0.9} | metrics
    return {
        **{"stage": row.output.stage, "format": weights.format, "type": weights.type, "label": row.output.label},
        **{**file, "files": [file], "parameters": 1000, "bits_per_weight": 8.5, "runtime": "llama.cpp"},
        **{"status": status, "reason": reason, "neutral": False, "metrics": numbers},
        **{"intervals": {"kl_mean": (numbers["kl_mean"] / 2, numbers["kl_mean"] * 2)}, "limits": {}, "quantiles": []},
        **{"slices": [], "worst": [], "windows": [], "contract": {}, "greedy": None, "tool_calls": None},
        "vision": {"reason": "", "projector": None, "projector_type": "", "images": [], "clicks": None},
        **{"speed": None, "tensors": []},
    }


def report(made: Made, statuses: Mapping[str, str] = {}) -> dict[str, Any]:
    """A report on all of a run; `statuses` are of those that did not pass."""
    entries = [
        entry(row, statuses.get(row.name, "passed"), "mean KL is 3, limit 1" if row.name in statuses else "")
        for row in made.rows
    ]
    return whole(entries, made.source.model.name)


def whole(entries: Sequence[Mapping[str, Any]], model: str) -> dict[str, Any]:
    """report.json around its outputs."""
    machine = {"processor": "x", "cores": 2, "memory_bytes": None, "system": "Linux", "python": "3.11"}
    cache = {"whole": True, "bytes": 1, "tokens_kept": 1.0, "tail_mass": 0.0, "tail_mass_max": 0.0}
    reference = {"model": model, "hub": "", "revision": "", "runtime": "transformers 5", "dtype": "float32"}
    return {
        **{"schema_version": SCHEMA_VERSION, "recipe": "small", "window": 32, "outputs": list(entries)},
        "reference": {**reference, "vocabulary": 8, "files": [], "cache": cache},
        "texts": [{"name": "ours.txt", "kind": "text", "sha256": "ab" * 32, "tokens": 100, "windows": 4}],
        "provenance": {
            **{"convert": "0", "recipe_sha256": "", "command": "convert run", "versions": {"torch": "2.13.0"}},
            "machine": machine,
        },
    }
