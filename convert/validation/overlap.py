"""Whether what a model was calibrated on is what it is tested on: then the test says less than it seems to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from convert.source.untrusted import read_bytes

MAX_BYTES = 64 << 20  # larger texts are compared by their hash alone
SHORTEST_LINE = 24  # characters: shorter lines are alike in any two texts
WORTH_SAYING = 0.02  # of the tested lines


def overlaps(calibrated: Iterable[Path], tested: Iterable[Path], digests: Mapping[Path, str]) -> Iterator[str]:
    """A sentence for every file of `tested` that is, or shares lines with, one of `calibrated`."""
    known = list(calibrated)
    for path in tested:
        for other in known:
            if digests.get(path) == digests.get(other, ""):
                yield f"calibrates on {other.name}, which `validate` tests it on"
            elif (share := _share(other, path)) > WORTH_SAYING:
                yield f"calibrates on {other.name}, which holds {share:.0%} of the lines of {path.name}"


def _share(calibrated: Path, tested: Path) -> float:
    wanted = _lines(tested)
    return len(wanted & _lines(calibrated)) / len(wanted) if wanted else 0.0


def _lines(path: Path) -> set[str]:
    if path.suffix not in (".txt", ".jsonl", ".md", "") or path.stat().st_size > MAX_BYTES:
        return set()
    text = read_bytes(path, MAX_BYTES).decode("utf-8", errors="replace")
    return {line.strip() for line in text.splitlines() if len(line.strip()) >= SHORTEST_LINE}
