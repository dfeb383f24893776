"""The table of classes that write no text by one stack and whose graphs are proven: tiny checkpoints, by the contract.

python -m tests.onnx.task_table NAME ...          measures these and prints their rows
python -m tests.onnx.task_table --write [NAME …]  measures these, or all, and puts them into the page

Rows that are not measured stay as they are. A row is added by adding a Tiny to task_checkpoints.py.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.marked import between, put_between
from tests.onnx import task_contract as contract
from tests.onnx.task_checkpoints import CASES, Tiny

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "onnx-graphs.md"
BEGIN, END = "<!-- tasks: python -m tests.onnx.task_table --write -->", "<!-- /tasks -->"
HEAD = ("| class | task | largest difference | precisions that load |", "| :-- | :-- | :-- | :-- |")
ROW = re.compile(r"^\| `(?P<kind>\w+)` \| ")


def row(tiny: Tiny) -> str:
    """Measure one, and say what was found."""
    from convert.formats.onnx import tasks
    from tests.onnx.graphs import config_of

    with tempfile.TemporaryDirectory() as scratch:
        source = tiny.make(Path(scratch) / "tiny")
        task = tasks.find(config_of(source)).name
        found = contract.measure(source, Path(scratch) / "out")
    return f"| `{tiny.kind}` | {task} | {found.apart:.1e} | {', '.join(found.precisions)} |"


def rows(text: str) -> dict[str, str]:
    """Class -> its row on the page."""
    found = (ROW.match(line) for line in text.splitlines())
    return {match["kind"]: match.string for match in found if match}


def table(measured: Mapping[str, str]) -> str:
    """All rows, in the order of the checkpoints."""
    lines = [measured[kind] for kind in CASES if kind in measured]
    return "\n".join([f"{len(lines)} classes.", "", *HEAD, *lines])


def main(words: list[str]) -> None:
    """Measure, print, and write where that is asked."""
    write, names = "--write" in words, [word for word in words if not word.startswith("--")]
    for name in names or CASES:
        found = row(CASES[name])
        print(found, flush=True)
        if write:
            made = rows(between(PAGE.read_text(encoding="utf-8"), BEGIN, END)) | {name: found}
            put_between(PAGE, BEGIN, END, table(made))


if __name__ == "__main__":
    main(sys.argv[1:])
