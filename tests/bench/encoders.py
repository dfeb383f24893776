"""Every encoder beside ggml's own: nanoseconds a weight in one process, on one core.

    python -m tests.bench.encoders [TYPE ...] [--weights 8e6] [--rounds 5]

Encodes the same normal weights with our encoder and with ggml_quantize_chunk, in turn, plain and with importance for
the types that use it; prints the least time of either and their ratio, and stops if a byte differs. Types without an
encoder of ours are not listed. Compilation is not counted: each encoder runs once before.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

import numpy as np

from quantize.encoders import ENCODERS, NEED_IMPORTANCE
from tests.fixtures_quantize import oracle

COLUMNS = 4096
PLAIN_ONLY = frozenset({"F32", "F16", "BF16", "Q8_0"})  # importance changes none of their bytes
NOT_QUANTIZED = frozenset({"F32"})  # ggml_quantize_chunk copies it, and so do we: a view


def seconds(run: Callable[[], np.ndarray]) -> float:
    """How long `run` takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(name: str, values: np.ndarray, weights: np.ndarray | None, rounds: int) -> tuple[float, float]:
    """Nanoseconds a weight, ours and ggml's: the least of `rounds`, alternating."""
    encoder = ENCODERS[name]

    def ours() -> np.ndarray:
        return encoder(values) if weights is None else encoder(values, weights)

    def ggmls() -> np.ndarray:
        return oracle(values, name, weights)

    if not np.array_equal(ours(), ggmls()):
        raise SystemExit(f"{name}: bytes differ from ggml's")
    times = [(seconds(ours), seconds(ggmls)) for _ in range(rounds)]
    mine, theirs = (min(column) / values.size * 1e9 for column in zip(*times, strict=True))
    return mine, theirs


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Our encoders beside ggml's, on one core.")
    parser.add_argument("types", nargs="*", metavar="TYPE", help="default: every type that has an encoder")
    parser.add_argument("--weights", type=float, default=8e6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    unknown = set(options.types) - set(ENCODERS)
    if unknown:
        parser.error(f"no encoder for {', '.join(sorted(unknown))}; there are {', '.join(ENCODERS)}")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # one core for both
    draw = np.random.default_rng(0)
    values = (draw.standard_normal((max(1, round(options.weights / COLUMNS)), COLUMNS)) * 0.02).astype(np.float32)
    importance = draw.random(COLUMNS).astype(np.float32)
    print(
        f"{values.size:,} weights, one core of {platform.processor() or platform.machine()}, least of {options.rounds}"
    )
    print(f"{'type':8} {'importance':10} {'ours':>8} {'ggml':>8} {'ratio':>7}   ns a weight")
    for name in options.types or [name for name in ENCODERS if name not in NOT_QUANTIZED]:
        for weights in (None, importance):
            if name in (NEED_IMPORTANCE if weights is None else PLAIN_ONLY):
                continue
            mine, theirs = measure(name, values, weights, options.rounds)
            label = "no" if weights is None else "yes"
            print(f"{name:8} {label:10} {mine:8.2f} {theirs:8.2f} {theirs / mine:7.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
