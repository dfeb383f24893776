"""Whether what a model was calibrated on is what it is tested on: then the test says less than it seems to.

Compared by content, whatever the tokenizer: lines that are alike, and windows of words, which find a text that was
wrapped otherwise, put into conversations, or cut out of the middle of another.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from convert.calibration import mix
from convert.source.untrusted import read_bytes

if TYPE_CHECKING:
    import numpy as np

MAX_BYTES = 64 << 20  # larger texts are compared by their hash alone
WORD_CHARACTERS = 16 << 20  # of a text whose words are compared
SHORTEST_LINE = 24  # characters: shorter lines are alike in any two texts
WINDOW_WORDS = 13  # in a row, about 20 tokens: independent texts hardly ever share so many
WORTH_SAYING = 0.02  # of the tested lines, or windows
FEW_WINDOWS = 32  # shared ones that are worth saying of a text of any length
TEXTS = (".txt", ".jsonl", ".md", ".raw", ".rules", "")
WORD = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")  # a letter, where words have no spaces between


def overlaps(calibrated: Iterable[Path], tested: Iterable[Path], digests: Mapping[Path, str]) -> Iterator[str]:
    """A sentence for every file of `tested` that is, or shares text with, one of `calibrated`."""
    known = list(calibrated)
    for path in tested:
        for other in known:
            if digests.get(path) == digests.get(other, ""):
                yield f"calibrates on {_name(other)}, which `validate` tests it on"
            elif (share := _share(other, path)) > WORTH_SAYING:
                yield f"calibrates on {_name(other)}, which holds {share:.0%} of the lines of {path.name}"
            elif share := _words_share(other, path):
                some = f"{share:.0%}" if share >= WORTH_SAYING else "some"
                yield f"calibrates on {_name(other)}, which holds {some} of the words of {path.name}"


def _name(calibrated: Path) -> str:
    return f"{mix.NAME}'s {calibrated.name}" if calibrated.parent == mix.TEXTS else calibrated.name


def _share(calibrated: Path, tested: Path) -> float:
    wanted = _lines(tested)
    return len(wanted & _lines(calibrated)) / len(wanted) if wanted else 0.0


def _lines(path: Path) -> set[str]:
    return {line.strip() for line in _text(path).splitlines() if len(line.strip()) >= SHORTEST_LINE}


def _words_share(calibrated: Path, tested: Path) -> float:
    """How many of the tested windows of words are in what was calibrated on; 0 where that may be chance."""
    import numpy as np

    wanted = _windows(tested, tested.stat().st_mtime_ns)
    if not len(wanted):
        return 0.0
    shared = int(np.isin(wanted, _windows(calibrated, calibrated.stat().st_mtime_ns)).sum())
    share = shared / len(wanted)
    return share if share > WORTH_SAYING or shared >= FEW_WINDOWS else 0.0


@functools.lru_cache(maxsize=8)
def _windows(path: Path, changed: int) -> np.ndarray:
    """A hash of every window of words, uint64 (window,), each once; `changed` is the file's time, for the cache."""
    import numpy as np

    said = "\n".join(_strings(path))[:WORD_CHARACTERS]
    words = WORD.findall(unicodedata.normalize("NFKC", said).casefold())
    numbers = np.array([int.from_bytes(_digest(word), "little") for word in words], np.uint64)
    count = len(numbers) - WINDOW_WORDS + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    total: np.ndarray = np.zeros(count, np.uint64)
    for place in range(WINDOW_WORDS):
        total = total * np.uint64(0x9E3779B97F4A7C15) + numbers[place : place + count]  # wraps, as it should
    windows: np.ndarray = np.unique(total)
    return windows


@functools.lru_cache(maxsize=1 << 16)
def _digest(word: str) -> bytes:
    import hashlib

    return hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()


def _strings(path: Path) -> Iterator[str]:
    """The text; of JSON lines the strings in them."""
    text = _text(path)
    if path.suffix != ".jsonl":
        yield text
        return
    for line in text.split("\n"):  # not splitlines: JSON may hold U+2028 as it is
        try:
            yield from _said(json.loads(line))
        except (ValueError, RecursionError):
            yield line


def _said(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _said(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _said(inner)


def _text(path: Path) -> str:
    if path.suffix not in TEXTS or path.stat().st_size > MAX_BYTES:
        return ""
    return read_bytes(path, MAX_BYTES).decode("utf-8", errors="replace")
