"""Batches of files of text on fake stages: what tests of convert batch run on; nothing of torch is imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert.batch import failures, pool
from convert.batch.api import Batch, prepare
from convert.batch.options import Limits
from convert.batch.request import request_of
from convert.batch.results import ModelResult
from convert.events import Event
from tests import fake_stages
from tests.batch_worker import OddStage

RECIPE = "stages:\n  one: {use: upper}\nvalidate: {limit: 100}\n"
COMMAND = (sys.executable, "-m", "tests.batch_worker")


@contextmanager
def installed(patch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    with fake_stages.installed(patch) as fakes:
        fakes["upper"] = OddStage()
        patch.setattr(pool, "COMMAND", COMMAND)
        patch.setattr(failures, "FIRST_SECONDS", 0.01)
        yield fakes


def texts(place: Path, **words: str) -> list[Path]:
    """A model for each word: a file of that text."""
    files = []
    for name, text in words.items():
        (place / f"{name}.gguf").write_text(text)
        files.append(place / f"{name}.gguf")
    return files


def made(place: Path, files: list[Path], recipe: str = RECIPE, jobs: int = 1, **how: Any) -> Batch:
    (place / "r.yaml").write_text(recipe)
    batch = prepare(request_of(files, [place / "r.yaml"]), place / "out", **how)
    return replace(batch, limits=Limits(jobs=jobs, downloads=1))


def ran(batch: Batch) -> tuple[dict[str, ModelResult], list[Event]]:
    events: list[Event] = []
    return {result.name: result for result in batch.run(events.append)}, events


def summary(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "out/summary.json").read_text())
    return found
