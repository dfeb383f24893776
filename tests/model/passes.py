"""A process that puts windows through a model's layers, prints each layer it reads, and waits for a line at each.

    python -m tests.model.passes CHECKPOINT STATE RESULT [--gather] [--wait]

RESULT becomes an npz file of logits, or with `--gather` of the sums of what went into the matrices.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from convert.model import layered
from convert.model.forward import Call, Output
from convert.model.inputs import GatherInputs, Inputs
from convert.model.layered import Layer, Layered, Through
from convert.model.resume import Resume


class Sums:
    """What went into the matrices, as a visitor's statistics."""

    def __init__(self) -> None:
        self.squares: dict[str, torch.Tensor] = {}

    def take(self, _: Layer, found: Mapping[str, Inputs]) -> None:
        self.squares |= {name: one.squares for name, one in found.items()}

    def state(self) -> object:
        return self.squares

    def restore(self, state: object) -> None:
        self.squares = cast("dict[str, torch.Tensor]", state)


class Telling:
    """Says which layer's weights are there, before anything runs."""

    def __init__(self, inner: layered.Visitor, wait: bool) -> None:
        self._inner, self._wait = inner, wait

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        print(layer.name, flush=True)
        if self._wait:
            sys.stdin.readline()
        return self._inner.visit(layer, calls)


def windows(model: Layered) -> list[Mapping[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    most = min(model.model.config.get_text_config().vocab_size, 200)
    return [{"input_ids": torch.randint(5, most, (1, length), generator=generator)} for length in (24, 24, 17)]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("checkpoint", "state", "result"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--gather", action="store_true")
    parser.add_argument("--wait", action="store_true")
    options = parser.parse_args()
    layered.LARGE = 64 * 200
    model, sums = Layered.open(options.checkpoint), Sums()
    visitor = Telling(GatherInputs(model, sums.take) if options.gather else Through(), options.wait)
    statistics = sums if options.gather else None
    model.resume = Resume(options.state, "a model", 0, lambda line: print(line, flush=True), statistics)
    found = {f"{number}": output for number, output in model.run(windows(model), visitor, head=not options.gather)}
    with open(options.result, "wb") as file:
        if options.gather:
            np.savez(file, **{name: one.numpy() for name, one in sums.squares.items()})
        else:
            np.savez(file, **{name: one.logits.numpy() for name, one in found.items()})  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
