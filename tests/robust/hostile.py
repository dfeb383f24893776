"""Every hostile input through the command line, each in a process of its own: `make hostile`.

python -m tests.robust.hostile                    all, and a table; exit code 1 where one was not stood
python -m tests.robust.hostile --only pickle      those with a word in their title
python -m tests.robust.hostile --messages FILE    what was said of each, to be read
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests import tiny
from tests.robust.cases import every
from tests.robust.cases.base import GGUF_RECIPE, SECRET, Case, Place
from tests.robust.limited import Limits, Ran, run

LIMITS = Limits(seconds=60, memory_bytes=2 << 30)
LONGEST_LINE = 1500  # characters of a message
REFUSED, GOOD = (1, 2, 3), (0, 3)
ERROR = re.compile(r"^(?:error|Error): (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """How a case ended; `wrong` is empty where it was stood."""

    case: str
    group: str
    how: str  # refused, ignored
    seconds: float  # of processors
    memory_mb: int
    said: str
    wrong: str


@functools.cache
def _good(folder: Path) -> Path:
    return tiny.tiny_llama(folder / "good", layers=1)


def stand(case: Case, folder: Path, limits: Limits = LIMITS) -> Outcome:
    """Make the input in `folder`, an empty one, and meet it."""
    place = Place(folder)
    shutil.copytree(_good(folder.parent), place.model)
    place.write("secret.txt", SECRET)
    place.recipe(GGUF_RECIPE)
    case.make(place)
    try:
        ran = run(case.command, folder, limits, _environment(place), fresh=bool(place.environment))
    finally:
        for close in place.close:
            close()
    return _judged(case, place, ran)


def _environment(place: Place) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    own = {"PYTHONPATH": root, "CONVERT_CACHE_HOME": str(place.root / "cache"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "HF_HOME": str(place.root / "hf"), **place.environment}


def _judged(case: Case, place: Place, ran: Ran) -> Outcome:
    errors = ERROR.findall(ran.err)
    wrong = next((words for words in _faults(case, place, ran, errors) if words), "")
    how = "ignored" if ran.code in GOOD and not errors else "refused"
    said = "\n".join(errors) or ran.err[-2000:]
    return Outcome(case.title, case.group, how, round(ran.seconds, 1), ran.memory_bytes >> 20, said, wrong)


def _faults(case: Case, place: Place, ran: Ran, errors: Sequence[str]) -> list[str]:
    """What is wrong with how it ended; empty texts where nothing is."""
    final = place.root / "out" / "r"
    refused = ran.code in REFUSED and errors
    ignored = case.harmless and ran.code in GOOD
    return [
        ran.passed,
        "a traceback" if "Traceback (most recent call last)" in ran.err + ran.out else "",
        "code of the input was run" if place.witness.exists() else "",
        "" if refused or ignored else f"exit code {ran.code}, {len(errors)} errors",
        f"{len(errors)} errors" if len(errors) > case.errors else "",
        "the case's own recipe is wrong" if case.group != "recipe" and "unknown key" in "".join(errors) else "",
        "an error of more than a line" if _unprintable(errors) else "",
        f"says nothing of {case.says!r}" if refused and not re.search(case.says, "\n".join(errors)) else "",
        "something half-made is left" if list(final.glob("*.partial")) else "",
        "the user's secret is in what was made" if _leaked(final) else "",
    ]


def _unprintable(errors: Sequence[str]) -> bool:
    return any(len(line) > LONGEST_LINE or not line.isprintable() for line in errors)


def _leaked(folder: Path) -> bool:
    return any(SECRET.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def stand_all(found: Sequence[Case], jobs: int, show: bool) -> list[Outcome]:
    """The outcomes, in the order of the cases."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name, ThreadPoolExecutor(jobs) as pool:
        home = Path(name)
        _good(home)

        def one(numbered: tuple[int, Case]) -> Outcome:
            folder = home / str(numbered[0])
            folder.mkdir()
            outcome = stand(numbered[1], folder)
            shutil.rmtree(folder, ignore_errors=True)
            if show and outcome.wrong:
                print(f"NOT STOOD  {outcome.case}: {outcome.wrong}", file=sys.stderr, flush=True)
            return outcome

        return list(pool.map(one, enumerate(found)))


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a group: how many, how they ended, and the most that one took."""
    lines = [
        "| kind | inputs | refused | ignored | not stood | median s | longest s | most MB |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    groups = list(dict.fromkeys(outcome.group for outcome in outcomes))
    for group in [*groups, "all"]:
        of = [outcome for outcome in outcomes if group in (outcome.group, "all")]
        good = [outcome for outcome in of if not outcome.wrong]
        counts = [sum(outcome.how == how for outcome in good) for how in ("refused", "ignored")]
        seconds = [outcome.seconds for outcome in of]
        numbers = [len(of), *counts, len(of) - len(good)]
        times = f"{statistics.median(seconds):.1f} | {max(seconds):.1f} | {max(o.memory_mb for o in of)}"
        lines.append(f"| {group} | {' | '.join(map(str, numbers))} | {times} |")
    return "\n".join(lines)


def main() -> int:
    """Stand them, print the table; the exit code."""
    parser = argparse.ArgumentParser(prog="hostile")
    parser.add_argument("--only", action="append", default=[], help="only those with this word in their title")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--messages", type=Path, help="a file for what was said of each, JSON lines")
    asked = parser.parse_args()
    found = [case for case in every() if not asked.only or any(word in case.title for word in asked.only)]
    since = time.monotonic()
    outcomes = stand_all(found, asked.jobs, show=True)
    if asked.messages:
        asked.messages.write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    print(table(outcomes))
    failed = [outcome for outcome in outcomes if outcome.wrong]
    for outcome in failed:
        print(f"not stood: {outcome.case}: {outcome.wrong}; it said: {outcome.said[:400]!r}")
    print(f"{len(outcomes)} inputs, {len(failed)} not stood, {time.monotonic() - since:.0f} s, {asked.jobs} at a time")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
