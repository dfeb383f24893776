"""Tokens a second of the GGUF part of a validation, beside llama.cpp's own `llama-perplexity --kl-divergence`.

    python -m tests.bench.validation LLAMA_PERPLEXITY BASE.gguf TEXT CANDIDATE.gguf [...]

Both sides read the same tokens of the same files with as many threads and the same build of llama.cpp: ours calls the
libraries that lie beside LLAMA_PERPLEXITY. Counted is what a validation does for a candidate: open it, read every
window, compare it with what was kept of the base, close it. The peer's clock is its process. The two take turns, and
the best of `TRIES` counts: whatever else the machine does slows both. Mean KL is of the positions that the peer scores,
the second half of each window; we compare every position. Prints a row a candidate and exits with 1 where we read less
than nine tenths of the peer's tokens a second, or mean KL differs by more than half a percent.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests import peer_perplexity as peers
from validate import drift
from validate.compressed_logits import CompressedLogits, compress
from validate.runtimes import llama_cpp, open_session
from validate.runtimes._llama_api import OWN_BUILD

TRIES = 3
THREADS = 2
LEAST_RATE, MOST_APART = 0.9, 0.005


@dataclass(frozen=True)
class Found:
    """One side, one candidate."""

    seconds: float
    kl: float


def main(peer: Path, base: Path, text: Path, candidates: list[Path]) -> int:
    os.environ[OWN_BUILD] = str(peer.parent)
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "logits"
        peers.run([peer, "-m", base, "-f", text, "--kl-divergence-base", kept, *peers.SETTINGS])
        windows = peers.tokens_of(kept)
        reference = read_base(base, windows)
        print(f"{len(windows)} windows of {peers.WINDOW} tokens, {THREADS} threads, base {base.name}")
        print(f"{'':28}{'tokens a second':>28}{'ratio':>8}{'mean KL':>26}{'apart':>9}")
        failed = [path for path in candidates if not row(peer, path, kept, windows, reference)]
    print(f"peak memory: ours {peak('SELF') + peak('CHILDREN'):.0f} MB at most, this process and its child together")
    return int(bool(failed))


def row(peer: Path, path: Path, kept: Path, windows: list[list[int]], reference: list[CompressedLogits]) -> bool:
    """Both sides of a candidate, in turns; whether ours is near enough."""
    ours, theirs = [], []
    for _ in range(TRIES):
        ours.append(measure(path, windows, reference))
        theirs.append(ask_peer(peer, path, kept))
    tokens = sum(map(len, windows))
    rate, peers_rate = (tokens / min(found.seconds for found in side) for side in (ours, theirs))
    apart = abs(ours[0].kl - theirs[0].kl) / theirs[0].kl
    good = rate >= LEAST_RATE * peers_rate and apart <= MOST_APART
    numbers = (
        f"{rate:14.1f}{peers_rate:14.1f}{rate / peers_rate:8.2f}{ours[0].kl:13.6g}{theirs[0].kl:13.6g}{apart:9.2%}"
    )
    print(f"{path.name:28}{numbers}{'' if good else '  FALLS SHORT'}", flush=True)
    return good


def read_base(base: Path, windows: list[list[int]]) -> list[CompressedLogits]:
    """What is kept of the base, as of a reference."""
    with open_session(llama_cpp.RUNTIME, base, context=peers.WINDOW, threads=THREADS) as session:
        peers.put_bos(windows, session)
        return [compress(logits, w, 1 << 30) for w, logits in zip(windows, session.logits_of(windows), strict=True)]


def measure(path: Path, windows: list[list[int]], reference: list[CompressedLogits]) -> Found:
    start = time.perf_counter()
    with open_session(llama_cpp.RUNTIME, path, context=peers.WINDOW, threads=THREADS) as session:
        answers = zip(reference, session.logits_of(windows), windows, strict=True)
        drifts = [drift.compare(kept, logits, window) for kept, logits, window in answers]
    seconds = time.perf_counter() - start
    return Found(seconds, float(np.concatenate([d.kl[peers.WINDOW // 2 : -1] for d in drifts]).mean()))


def ask_peer(peer: Path, path: Path, kept: Path) -> Found:
    start = time.perf_counter()
    found = peers.ask_peer(peer, path, kept)
    return Found(time.perf_counter() - start, found.kl)


def peak(whose: str) -> float:
    """MB, the largest resident size so far."""
    return float(resource.getrusage(getattr(resource, f"RUSAGE_{whose}")).ru_maxrss / 1000)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    sys.exit(main(*map(Path, sys.argv[1:4]), list(map(Path, sys.argv[4:]))))
