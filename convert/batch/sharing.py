"""What two recipes of one model need only once: hashes of its files, what the reference said, what was measured.

All of it lies below OUT/<recipe>/.convert, named by content; a recipe that is made for the first time gets links to
what another of the same model has. What does not fit it is not looked at, and goes at the end of its run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from convert.files import STATE_FOLDER

HASHES = "hashes.json"
BY_CONTENT = ("reference", "measured")


@contextlib.contextmanager
def lent(folder: Path, others: Sequence[Path]) -> Iterator[None]:
    """What others have is in `folder` meanwhile, and after it too, unless the block raises."""
    state = folder / STATE_FOLDER
    lender = next((other / STATE_FOLDER for other in others if (other / STATE_FOLDER / HASHES).is_file()), None)
    if folder.exists() or lender is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            _link(lender, state)
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)  # nothing else was in it
        raise


def _link(lender: Path, state: Path) -> None:
    state.mkdir(parents=True)
    shutil.copyfile(lender / HASHES, state / HASHES)  # by path and time of each file: one that changed is read again
    for name in BY_CONTENT:
        files = [path for path in (lender / name).glob("*") if path.is_file()]
        if files:
            (state / name).mkdir()
        for path in files:
            os.link(path, state / name / path.name)
