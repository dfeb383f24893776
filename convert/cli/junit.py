"""`--junit FILE`: the verdicts as JUnit XML. The file is of this run or not there: never an earlier run's.

with junit_file(path, "convert run"):    # a file that cannot be written is told before hours are spent
    ...
    write_junit(path, suite)             # in one rename; where the block raises, its problems are the suite
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from convert.errors import ConvertError, PlanError, Problem

if TYPE_CHECKING:
    from validate.report.junit import Suite

junit_option = click.option(
    "--junit", metavar="FILE", type=click.Path(path_type=Path), help="Also write the verdicts as JUnit XML, for CI."
)
_STARTS = (b"<?xml", b"<testsuite")


def write_junit(path: Path | None, suite: Suite) -> None:
    """Put the suite under `path` in one rename; nothing where no path was given."""
    if path is not None:
        from convert.files import replace_text
        from validate.report.junit import to_xml

        replace_text(path, to_xml(suite))


@contextmanager
def junit_file(path: Path | None, name: str) -> Iterator[None]:
    """A block that writes the file; what it raises is written there too, as errors of a suite called `name`."""
    if path is None:
        yield
        return
    _clear(path)
    try:
        yield
    except (ConvertError, OSError) as error:
        from validate.report.junit import broken

        problems = error.problems if isinstance(error, ConvertError) else (error,)
        write_junit(path, broken(name, [str(problem) for problem in problems]))
        raise


def _clear(path: Path) -> None:
    """Make room for the file: its folder is there, an earlier run's file is not. Raises PlanError."""
    wanted = "the name of a file to write JUnit XML to"
    if path.exists() and not path.is_file():
        raise PlanError(Problem(f"--junit {path}", "is a folder" if path.is_dir() else "is no plain file", wanted))
    try:
        if path.is_file():
            with open(path, "rb") as file:
                start = file.read(16).lstrip()
            if start and not start.startswith(_STARTS):
                raise PlanError(Problem(f"--junit {path}", "is there already and is no XML", wanted, "name another"))
            path.unlink()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        path.unlink()
    except OSError as error:
        raise PlanError(Problem(f"--junit {path}", f"cannot be written: {error.strerror}", wanted)) from error
