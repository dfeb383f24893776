"""How long steps took on this machine, kept in the user's cache, and how long one like them will take.

A step's work is what its stage says it is, in units of its own; its time is taken for a fixed part and a part that
grows with the work. Nothing is said of a step much larger than any that was seen.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from convert.files import cache_folder

NAME = "timings.json"
KEPT = 20  # runs of a stage that are remembered, the latest
FARTHEST = 30  # times the largest work that was seen
ALIKE = 1.3  # works within this ratio tell nothing of what grows


def path() -> Path:
    """Where they are kept."""
    return cache_folder() / NAME


def remember(use: str, work: int, seconds: float) -> None:
    """Keep what a step took; where the cache cannot be written, forget it."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home folder
        known = _read()
        known[use] = [*known.get(use, []), (work, seconds)][-KEPT:]
        file = path()
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        partial.write_text(json.dumps(known), encoding="utf-8")
        partial.replace(file)


def seconds(use: str, work: int) -> float | None:
    """How long such a step will take; None where none like it was run on this machine."""
    samples = _read().get(use, [])
    largest = max((w for w, _ in samples), default=0)
    return _line(samples, work) if samples and work <= FARTHEST * max(1, largest) else None


def _line(samples: Sequence[tuple[int, float]], work: int) -> float:
    """The least squares' line through the samples at `work`; one through the origin where they are all alike."""
    smallest, largest = min(w for w, _ in samples), max(w for w, _ in samples)
    mean_w: float = sum(w for w, _ in samples) / len(samples)
    mean_s: float = sum(s for _, s in samples) / len(samples)
    if largest <= ALIKE * max(1, smallest):
        return mean_s * max(1.0, work / max(1.0, mean_w))  # never less than what was seen: most of it may be fixed
    slope: float = sum((w - mean_w) * (s - mean_s) for w, s in samples) / sum((w - mean_w) ** 2 for w, _ in samples)
    slope = max(0.0, slope)
    return max(0.1, mean_s - slope * mean_w + slope * work, slope * work)


def _read() -> dict[str, list[tuple[int, float]]]:
    with contextlib.suppress(OSError, RuntimeError, ValueError, TypeError, AttributeError):
        raw = json.loads(path().read_text(encoding="utf-8"))
        return {str(use): [(int(w), float(s)) for w, s in rows] for use, rows in raw.items()}
    return {}
