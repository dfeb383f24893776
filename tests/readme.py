"""The table of formats in README, made of the registry.

python -m tests.readme            prints it
python -m tests.readme --write    puts it into README.md
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

from convert import registry
from convert.formats.base import Format
from tests.marked import between, put_between
from validate import runtimes

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- formats: python -m tests.readme --write -->", "<!-- /formats -->"
HEAD = ("| format | what it is | `use:` | measured on |", "| :-- | :-- | :-- | :-- |")


def table() -> str:
    """The table in Markdown: the formats of this project, in the order people expect."""
    return "\n".join([*HEAD, *_rows()])


def _rows() -> Iterator[str]:
    for format_ in registry.formats():
        module = f"convert.formats.{format_.name}"
        if importlib.util.find_spec(module) is not None:  # another package's is not in our README
            stages = ", ".join(f"`{word}`" for word in format_.stages)
            what = (importlib.import_module(module).__doc__ or "").strip().partition(": ")[2].rstrip(".")
            yield f"| {format_.title} | {what} | {stages} | {', '.join(_runtimes(format_))} |"


def _runtimes(format_: Format) -> list[str]:
    """What people call the runtimes of its outputs."""
    names = dict.fromkeys(name for kind in format_.kinds for name in kind.runtimes)
    return [runtimes.load(name).NAME for name in names if name in runtimes.names()] or ["no runtime yet"]


def in_readme(text: str) -> str:
    """What README has between the two comments."""
    return between(text, BEGIN, END)


def write() -> None:
    """Put the table into README."""
    put_between(README, BEGIN, END, table())


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        write()
    else:
        print(table())
