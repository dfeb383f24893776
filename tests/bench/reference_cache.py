"""What keeping the reference's logits costs and how far KL from it is off, on made logits of a large vocabulary.

    python -m tests.bench.reference_cache [--windows 3] [--run 100] [--tokens 512] [--vocab 151936]

Makes `--windows` windows of logits by rank like Zipf's law with noise, of entropies as a language model's, every
sixteenth position flat, and drifts of about 1e-3 of them; keeps each in the room that one of `--run` windows gets; and
prints: bytes, tokens kept, seconds to keep, to save, to load and to compare, the peak of memory, and KL against that
from all logits. The run's bytes are extrapolated, not written.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from validate import compressed_logits, drift

FLAT_EVERY = 16
DRIFT = 0.045  # of a logit: KL 1e-3 where all tokens have it
_Result = TypeVar("_Result")


def made(rng: np.random.Generator, tokens: int, vocab: int) -> np.ndarray:
    """Logits float32 (token, vocab), entropies from 0 to about 7 nats, of the flat positions more."""
    ranks = -np.log(np.arange(1, vocab + 1, dtype=np.float32))
    logits_tv = rng.standard_normal((tokens, vocab), dtype=np.float32)
    for i in range(tokens):
        if i % FLAT_EVERY:
            logits_tv[i] *= 0.7
            logits_tv[i] += rng.permutation(ranks) * np.float32(rng.uniform(1.1, 3))
    return logits_tv


def drifted(rng: np.random.Generator, logits_tv: np.ndarray) -> np.ndarray:
    """A candidate, made row by row."""
    return np.stack([row + DRIFT * rng.standard_normal(len(row), dtype=np.float32) for row in logits_tv])


class Clock:
    """Seconds by what they were spent on."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, what: str, work: Callable[[], _Result]) -> _Result:
        start = time.perf_counter()
        result = work()
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start
        return result


def peak_bytes() -> int:
    """The largest resident size of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def entropy(logits_tv: np.ndarray) -> np.ndarray:
    """(token,) nats."""
    exps = [np.exp(row.astype(np.float64) - row.max()) for row in logits_tv]
    return np.array([np.log(e.sum()) - float((e * np.log(np.maximum(e, 1e-300))).sum() / e.sum()) for e in exps])


@dataclass(frozen=True)
class Window:
    """What came of one window."""

    entropies: np.ndarray
    exact: np.ndarray  # KL from all logits
    got: np.ndarray  # KL from what was kept
    tokens_kept: float
    tail_mass: float
    tail_mass_max: float
    size: int
    peak: int


def measured(rng: np.random.Generator, shape: tuple[int, int], room: int, clock: Clock, path: Path) -> Window:
    """Keep one window, write it, read it and compare with it."""
    reference, tokens = made(rng, *shape), rng.integers(0, shape[1], shape[0]).tolist()
    candidate, entropies = drifted(rng, reference), entropy(reference)
    exact = drift.compare(compressed_logits.compress(reference, tokens, 1 << 40), candidate, tokens).kl
    kept = clock("keep", lambda: compressed_logits.compress(reference, tokens, room))
    clock("save", lambda: kept.save(path))
    loaded = clock("load", lambda: compressed_logits.CompressedLogits.load(path))
    got = clock("compare", lambda: drift.compare(loaded, candidate, tokens)).kl
    kept_of_it = loaded.tokens_kept, loaded.tail_mass, loaded.tail_mass_max
    return Window(entropies, exact, got, *kept_of_it, path.stat().st_size, peak_bytes())


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description="The cost of the reference's logits, and the error of KL from them.")
    parser.add_argument("--windows", type=int, default=3, help="that are made")
    parser.add_argument("--run", type=int, default=100, help="windows of the run, which share the room")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=151936)
    options = parser.parse_args()
    rng, clock = np.random.default_rng(0), Clock()
    shape, room = (
        (options.tokens, options.vocab),
        options.tokens * compressed_logits.room_bytes(options.run * options.tokens),
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(rng, shape, room, clock, Path(folder, "window.npz")) for _ in range(options.windows)]
    size, entropies = sum(row.size for row in rows), np.concatenate([row.entropies for row in rows])
    wanted, found = np.concatenate([row.exact for row in rows]), np.concatenate([row.got for row in rows])
    tail, most = np.mean([row.tail_mass for row in rows]), max(row.tail_mass_max for row in rows)
    whole = size * options.run / options.windows
    print(f"{options.windows} windows of {shape[0]} x {shape[1]} logits, {shape[0] * shape[1] * 4 / 1e6:.0f} MB each")
    print("entropy, nats: " + ", ".join(f"{q:.2f}" for q in np.quantile(entropies, (0, 0.25, 0.5, 0.75, 1))))
    print(f"on disk: {size / 1e6:.0f} MB; extrapolated to {options.run} windows {whole / 1e9:.2f} GB")
    print(f"tokens kept: {np.mean([row.tokens_kept for row in rows]):.0f} a position")
    print(f"mass not kept: {tail:.2g} mean, {most:.2g} most")
    print(f"peak memory, logits of both sides included: {max(row.peak for row in rows) / 1e9:.2f} GB")
    for what, seconds in clock.seconds.items():
        print(f"{what}: {seconds / options.windows:.2f} s a window")
    print(
        f"KL: {wanted.mean():.4e} exact, {found.mean():.4e} from what was kept: {found.mean() / wanted.mean() - 1:+.3%}"
    )
    flat = np.arange(len(wanted)) % options.tokens % FLAT_EVERY == 0
    for name, rows_of in (("flat positions", flat), ("the others", ~flat)):
        print(f"  {name}: {found[rows_of].mean() / wanted[rows_of].mean() - 1:+.3%}")


if __name__ == "__main__":
    main()
