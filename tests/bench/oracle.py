"""Every encoder's bytes against ggml's on many millions of weights: made ones, extreme ones, and a real model's.

    python -m tests.bench.oracle [TYPE ...] [--weights 1e7] [--model recipes/models/fara-nano]

For each type, plain and with importance, at least so many made weights and all matrices of the model. Prints the
number of weights and of blocks that differ; the exit status is 1 if any does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from convert.source.checkpoint import open_checkpoint
from quantize.blocks import TYPES, BlockType
from quantize.encoders import ENCODERS, NEED_IMPORTANCE
from quantize.floats import to_float32
from tests.fixtures_blocks import CASES, CODEBOOKS, fitting, rows_of
from tests.fixtures_quantize import IMPORTANCE, importance, oracle

COLUMNS = 2048
ROWS = {"normal": 512, "heavy tails": 256}  # of a case; of all others 24
OTHERS = 24


def made(wanted: float) -> Iterator[np.ndarray]:
    """Arrays of every case in turn, again and again, until there are at least `wanted` values."""
    for seed in count(10):
        for case in CASES:
            yield (values := rows_of(case, ROWS.get(case, OTHERS), COLUMNS, seed))
            wanted -= values.size
        if wanted <= 0:
            return


def matrices(model: Path, kind: BlockType) -> Iterator[np.ndarray]:
    """The weights of a checkpoint that are no vectors, as float32 (rows, n), those that fit the type."""
    for tensor in open_checkpoint(model).tensors.values():
        if len(tensor.shape) > 1 and kind.fits(tensor.shape[-1]):
            yield np.ascontiguousarray(to_float32(np.asarray(tensor.load())).reshape(-1, tensor.shape[-1]))


def differing(name: str, values: np.ndarray, weights: np.ndarray | None) -> int:
    """How many blocks of the type are not ggml's."""
    encoded, expected = ENCODERS[name](values, weights), oracle(values, name, weights)
    assert encoded.shape == expected.shape
    return int((encoded != expected).reshape(-1, TYPES[name].bytes).any(axis=1).sum())


def compare(name: str, weighted: bool, wanted: float, model: Path | None) -> int:
    """Prints a line about the type and returns the number of blocks that differ."""
    sizes, bad = {"made": 0, "of the model": 0}, 0
    sources = (("made", made(wanted)), ("of the model", matrices(model, TYPES[name]) if model else ()))
    for source, arrays in sources:
        for i, values in enumerate(arrays):
            weights = importance(IMPORTANCE[i % len(IMPORTANCE)], values.shape[1], seed=i) if weighted else None
            compared = fitting(name, values, weights) if name in CODEBOOKS else values
            bad += differing(name, compared, weights)
            sizes[source] += compared.size
    numbers = ", ".join(f"{size:,} weights {source}" for source, size in sizes.items())
    print(f"{name:8} {'importance' if weighted else 'plain':10}  {numbers}: {bad} blocks differ", flush=True)
    return bad


def main() -> int:
    """Compares the types asked for."""
    parser = argparse.ArgumentParser(description="The bytes of our encoders against those of ggml's.")
    parser.add_argument("types", nargs="*", metavar="TYPE", help="default: every type that has an encoder")
    parser.add_argument("--weights", type=float, default=1e7, help="made ones, a type")
    parser.add_argument("--model", type=Path, help="folder of a checkpoint, for real weights")
    options = parser.parse_args()
    unknown = set(options.types) - set(ENCODERS)
    if unknown:
        parser.error(f"no encoder for {', '.join(sorted(unknown))}; there are {', '.join(ENCODERS)}")
    names = options.types or list(ENCODERS)
    runs = [(name, weighted) for name in names for weighted in (False, True) if weighted or name not in NEED_IMPORTANCE]
    return sum(compare(name, weighted, options.weights, options.model) for name, weighted in runs)


if __name__ == "__main__":
    sys.exit(bool(main()))
