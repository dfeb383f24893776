"""The table of classes whose graphs are proven: every tiny checkpoint, measured by the whole contract of its kind.

python -m tests.onnx.table NAME ...         measures these and prints their rows
python -m tests.onnx.table --write [NAME …] measures these, or all, and puts them into docs/reference/onnx-classes.md

Rows that are not measured stay as they are. A row is added by adding a Subject to SUBJECTS.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.marked import between, put_between
from tests.onnx import contract, task_contract
from tests.onnx.graphs import reference_model
from tests.onnx.task_checkpoints import CASES
from tests.parity.families import every_case

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "onnx-classes.md"
BEGIN, END = "<!-- classes: python -m tests.onnx.table --write -->", "<!-- /classes -->"
HEAD = ("| class | tiny checkpoint | largest difference | precisions that load |", "| :-- | :-- | :-- | :-- |")
ROW = re.compile(r"^\| `(?P<kind>\w+)` \| (?P<name>[^|]+) \| ")


@dataclass(frozen=True)
class Subject:
    """A checkpoint, and how its graphs are measured."""

    make: Callable[[Path], Path]
    measure: Callable[[Path, Path], contract.Measured] = contract.measure


def subjects() -> dict[str, Subject]:
    """Name -> what is measured: tiny checkpoints of families, and of classes that write no text by one stack."""
    cases = every_case()
    measures = (
        (contract.DECODERS, contract.measure),
        (contract.IMAGES, contract.measure_images),
        (contract.GRIDS, contract.measure_grids),
    )
    found = {name: Subject(cases[name].make, measure) for names, measure in measures for name in names}
    return found | {kind: Subject(tiny.make, task_contract.measure) for kind, tiny in CASES.items()}


def row(name: str, subject: Subject) -> str:
    """Measure one, and say what was found."""
    with tempfile.TemporaryDirectory() as scratch:
        source = subject.make(Path(scratch) / "tiny")
        kind = json.loads((source / "config.json").read_text())["architectures"][0]
        found = subject.measure(source, Path(scratch) / "out")
        reference_model.cache_clear()
    assert found.apart < contract.LIMIT, f"a logit is {found.apart:.1e} away"
    return f"| `{kind}` | {name} | {found.apart:.1e} | {', '.join(found.precisions)} |"


def rows(text: str) -> dict[str, str]:
    """Name -> its row on the page."""
    found = (ROW.match(line) for line in text.splitlines())
    return {match["name"]: match.string for match in found if match}


def table(measured: Mapping[str, str]) -> str:
    """All rows, by class."""
    lines = sorted(measured.values(), key=str.lower)
    classes = {match["kind"] for line in lines if (match := ROW.match(line))}
    return "\n".join([f"{len(classes)} classes.", "", *HEAD, *lines])


def on_page() -> str:
    """What the page has between the two comments."""
    return between(PAGE.read_text(encoding="utf-8"), BEGIN, END)


def main(words: list[str]) -> int:
    """Measure, print, and write where that is asked; how many of them failed, whose rows go."""
    write, names = "--write" in words, [word for word in words if not word.startswith("--")]
    known, made, failed = subjects(), rows(on_page()), 0
    for name in names or known:
        made.pop(name, None)
        try:
            made[name] = row(name, known[name])
            print(made[name], flush=True)
        except Exception as error:  # of any class of transformers, and of any runtime: the others are measured too
            failed += 1
            print(f"{name}: {type(error).__name__}: {str(error).strip()[:300]}", flush=True)
        if write:
            put_between(PAGE, BEGIN, END, table({name: one for name, one in made.items() if name in known}))
    return failed


if __name__ == "__main__":
    sys.exit(min(1, main(sys.argv[1:])))
