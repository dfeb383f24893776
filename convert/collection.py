"""Python's search for cycles, put off while a large table is made. A leaf."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """No search for cycles meanwhile: objects made by the hundred thousand, none of them garbage, set off one after
    the other, and reading a vocabulary takes twice as long."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
