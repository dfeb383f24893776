"""Coverage-guided fuzzing of every reader: `make fuzz`, by atheris (libFuzzer that sees lines of Python).

    python -m tests.robust.fuzz --minutes 60            every reader, the time shared out evenly; a table
    python -m tests.robust.fuzz --only gguf --minutes 2

Nothing but a ConvertError may come of any bytes, within 10 seconds of a processor and 200 MB beside twice the input.
What is found is in .cache/fuzz/findings; tests/robust/test_findings.py keeps what was, shortened by hand.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import processes

HOME = Path(".cache") / "fuzz"
SECONDS = 10.0  # of a processor, for one input
MORE_BYTES = 200 << 20
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 10**30, 1.5, 1e308, float("nan"), "", "a", "\0", "\ud800", "../x"),
    *([], {}, [[]], {"a": 1}, [None], ["a"] * 3, "x" * 300, {"": {}}, -(2**63), [1, 2, 3]),
)
STATS = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
COVER = re.compile(r"\bcov: (\d+)")


@dataclass(frozen=True)
class Fuzzed:
    """What came of one reader."""

    name: str
    inputs: int
    cover: int
    seconds: float
    findings: int
    failed: str = ""


# ---- the process that fuzzes


def be(name: str, seconds: int) -> None:
    """Fuzz one reader in this process; never returns."""
    import atheris

    with atheris.instrument_imports(include=["convert"]):
        from tests.robust import readers
    reader = readers.READERS[name]
    corpus = HOME / "corpus" / re.sub(r"\W+", "-", name)
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["convert"]):
        for number, seed in enumerate(reader.seeds()):
            (corpus / f"seed-{number}").write_bytes(seed[: reader.largest])
            readers.meet(reader, seed, Path(tempfile.mkdtemp()))  # imports what it needs, once
    folder, findings = Path(tempfile.mkdtemp(prefix="fuzz-", dir=_memory_disk())), _Findings(name)

    def one(raw: bytes) -> None:
        began, most = time.process_time(), _most()
        try:
            readers.meet(reader, raw, folder)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            findings.add(raw, error)
        took, more = time.process_time() - began, _most() - most
        if took > SECONDS:
            findings.note(raw, f"slow: {took:.0f} s")
        if more > MORE_BYTES + 2 * len(raw):
            findings.note(raw, f"large: {more >> 20} MB more")

    options = [f"-max_total_time={seconds}", f"-max_len={reader.largest}", "-timeout=600", "-rss_limit_mb=6000"]
    words = ["-print_final_stats=1", "-len_control=0", f"-artifact_prefix={HOME / 'findings'}/"]
    mutator = {"custom_mutator": _json_mutator} if reader.is_json else {}
    atheris.Setup(["fuzz", *options, *words, str(corpus)], one, **mutator)
    atheris.Fuzz()


def _memory_disk() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


def _most() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class _Findings:
    """What was not allowed, once for each place that it was raised at."""

    def __init__(self, name: str) -> None:
        self._stem = re.sub(r"\W+", "-", name)
        self._known: set[str] = set()
        (HOME / "findings").mkdir(parents=True, exist_ok=True)

    def add(self, raw: bytes, error: BaseException) -> None:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/convert/" in frame.filename or "/quantize/" in frame.filename]
        place = ours[-1] if ours else frames[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        self.note(raw, f"{type(error).__name__} at {where}", "".join(traceback.format_exception(error)))

    def note(self, raw: bytes, words: str, trace: str = "") -> None:
        key = re.sub(r"\d+ (s|MB)", "", words)
        if key in self._known:
            return
        self._known.add(key)
        stem = HOME / "findings" / f"{self._stem}-{re.sub(r'[^A-Za-z0-9]+', '-', key).strip('-')}"
        stem.with_suffix(".input").write_bytes(raw)
        stem.with_suffix(".txt").write_text(f"{words}\n{trace}")


def _json_mutator(raw: bytes, most: int, seed: int) -> bytes:
    """Another value somewhere in the tree; now and then the bytes themselves, as for any other reader."""
    import atheris

    draw = random.Random(seed)
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError):
        tree = None
    if tree is None or draw.random() < 0.2:
        mutated: bytes = atheris.Mutate(raw, most)
        return mutated
    for _ in range(draw.randint(1, 3)):
        tree = changed(tree, draw)
    return json.dumps(tree).encode("utf-8", "surrogatepass")[:most]


def changed(tree: Any, draw: random.Random) -> Any:
    """The tree with one value in it changed: gone, twice, or an odd one in its place."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.1:
        return draw.choice(ODD)
    key = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
    if draw.random() < 0.75:
        tree[key] = changed(tree[key], draw)
    elif draw.random() < 0.5:
        del tree[key]
    elif isinstance(tree, dict):
        tree[str(draw.choice(ODD))] = tree[key]
    else:
        tree.append(tree[key])
    return tree


# ---- the process that asks


def fuzz(name: str, seconds: int) -> Fuzzed:
    """One reader in a process of its own, begun again where it dies."""
    until, inputs, cover, failed = time.monotonic() + seconds, 0, 0, ""
    began = time.monotonic()
    while (left := int(until - time.monotonic())) > 3:
        command = [sys.executable, "-m", "tests.robust.fuzz", "--be", name, "--seconds", str(left)]
        done = processes.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=left + 900)
        counts, covers = STATS.findall(done.stderr), COVER.findall(done.stderr)
        inputs += int(counts[-1]) if counts else 0
        cover = max([cover, *map(int, covers[-1:])])
        if done.returncode:
            failed = failed or f"ended with {done.returncode}: {done.stderr.strip()[-300:]!r}"
            if not counts:
                break
    stem = re.sub(r"\W+", "-", name)
    found = len(list((HOME / "findings").glob(f"{stem}-*.txt"))) if (HOME / "findings").is_dir() else 0
    return Fuzzed(name, inputs, cover, time.monotonic() - began, found, failed)


def main() -> int:
    """Fuzz, print a table; the exit code is 1 where something was found."""
    parser = argparse.ArgumentParser(prog="fuzz")
    parser.add_argument("--minutes", type=float, default=60, help="in all")
    parser.add_argument("--only", action="append", default=[], help="only readers with this word in their name")
    parser.add_argument("--be", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.be:
        be(asked.be, asked.seconds)
    from tests.robust.readers import READERS

    names = [name for name in READERS if not asked.only or any(word in name for word in asked.only)]
    each, results = max(5, round(asked.minutes * 60 / len(names))), []
    print("| reader | inputs | lines and edges reached | s | findings |\n| :-- | --: | --: | --: | --: |")
    for name in names:
        result = fuzz(name, each)
        results.append(result)
        print(f"| {name} | {result.inputs} | {result.cover} | {result.seconds:.0f} | {result.findings} |", flush=True)
        if result.failed:
            print(f"{name}: {result.failed}", file=sys.stderr, flush=True)
    inputs, found = sum(r.inputs for r in results), sum(r.findings for r in results)
    print(f"{inputs} inputs, {found} findings in {HOME / 'findings'}")
    return 1 if any(r.findings or r.failed for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
