"""The source one layer at a time beside the whole model: seconds and memory of reference logits, at any size.

    python -m tests.bench.model FOLDER [--shapes 1.5b 7b 32b:4] [--tokens 2048] [--how whole layered layered:bfloat16]

FOLDER is where checkpoints of these shapes are made, and stay (tests/bench/shapes.py). Each measurement is a process of
its own: it opens the source as validation does, reads the tokens in windows of 512, and looks at each window's logits.
Memory is anonymous: what is mapped from files the system takes back when it needs it. Counted from the start of the
process, so that libraries are in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.bench.shapes import SHAPES, make, shape

WINDOW = 512
EVERY = 0.1  # seconds
GB = 1e9


@dataclass(frozen=True)
class Found:
    """One reading of all windows."""

    seconds: float
    cpu: float
    peak: int  # bytes
    last: float  # mean of the last logits: that both sides read the same


def anonymous_bytes() -> int:
    """This process's memory that is no file's."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return 0


class Peak(threading.Thread):
    """The largest anonymous memory, looked at again and again."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.bytes, self._ended = 0, threading.Event()

    def run(self) -> None:
        while not self._ended.wait(EVERY):
            self.bytes = max(self.bytes, anonymous_bytes())

    def end(self) -> int:
        self._ended.set()
        self.join()
        return self.bytes


def read(folder: Path, how: str, tokens: int, threads: int) -> Found:
    """In this process."""
    from convert.model.session import LayeredSession
    from validate.runtimes.transformers import TransformersSession

    rng = np.random.default_rng(0)
    windows = rng.integers(5, 150_000, (tokens // WINDOW, WINDOW)).tolist()
    peak = Peak()
    peak.start()
    kind, _, dtype = how.partition(":")
    make_session: Callable[[], TransformersSession] = (
        (lambda: TransformersSession(folder, threads, False))
        if kind == "whole"
        else (lambda: LayeredSession(folder, threads, False, dtype or "float32"))
    )
    start, cpu = time.perf_counter(), time.process_time()
    with make_session() as session:
        for logits_tv in session.read_windows(windows, lambda _: None):
            last = float(np.abs(logits_tv[-1]).mean())
            assert np.isfinite(last), "logits are not finite"
            del logits_tv  # as validation does: the next ones are as large
    return Found(time.perf_counter() - start, time.process_time() - cpu, peak.end(), last)


def measured(folder: Path, how: str, tokens: int, threads: int) -> Found:
    """In a process of its own."""
    words = [sys.executable, "-m", "tests.bench.model", str(folder), "--read", how]
    words += ["--tokens", str(tokens), "--threads", str(threads)]
    output = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return Found(**json.loads(output.splitlines()[-1]))


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description="Reference logits, one layer at a time and as a whole.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shapes", nargs="+", default=["1.5b"], help=f"of {', '.join(SHAPES)}; 32b:4 has four layers")
    parser.add_argument("--how", nargs="+", default=["whole", "layered"])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(asdict(read(options.folder, options.read, options.tokens, options.threads))))
        return
    print(f"{options.tokens} tokens, {options.threads} threads")
    print(f"{'shape':8}{'how':20}{'seconds':>9}{'CPU s':>9}{'tok/s':>8}{'peak GB':>9}{'|logit|':>9}")
    for words in options.shapes:
        size, _, layers = words.partition(":")
        folder = make(options.folder / words.replace(":", "x"), shape(size, int(layers) if layers else None))
        for how in options.how:
            f = measured(folder, how, options.tokens, options.threads)
            row = f"{f.seconds:9.1f}{f.cpu:9.1f}{options.tokens / f.seconds:8.1f}{f.peak / GB:9.2f}{f.last:9.4f}"
            print(f"{words:8}{how:20}{row}", flush=True)


if __name__ == "__main__":
    main()
