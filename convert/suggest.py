"""What a message says to a word that is not known. A leaf."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHOWN = 12  # names that a message may list
NEAREST = 3  # those it names of a longer list


def suggest(word: str, known: Iterable[str], command: str = "") -> str:
    """`did you mean 'x'?` for a near miss, else all that is known; of many the nearest, and `command`, which lists all.

    Without a command the number of the others is said.
    """
    known = sorted(known)
    if near := difflib.get_close_matches(word, known, n=1, cutoff=0.6):
        return f"did you mean '{near[0]}'?"
    if len(known) <= SHOWN:
        return f"known: {', '.join(known)}"
    close = difflib.get_close_matches(word, known, n=NEAREST, cutoff=0.3)
    nearest = f"the nearest: {', '.join(close)}; " if close else ""
    return nearest + (f"`{command}` lists all" if command else f"{len(known)} are known")
