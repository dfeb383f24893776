"""The values in an output's file against the source's, tensor by tensor; what is more than rounding is explained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from convert.formats.facts import TensorPair

if TYPE_CHECKING:
    from validate.diagnosis import Measured
    from validate.measurement import TensorError

VALUES = 4 << 20  # of each tensor, that are compared with the source's
EXPLAINED_VALUES = 64 << 20  # the largest tensor that is looked at as a whole
EXPLAINED = 12  # tensors: a file of another model has all of them wrong


def compare_tensors(pairs: Sequence[TensorPair]) -> list[TensorError]:
    """The error of each, and in `note` what is wrong with those that lost more than their type rounds."""
    from validate import diagnosis
    from validate.measurement import TensorError

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy leaves the others running
        found = list(pool.map(_measured, pairs))
    suspects = diagnosis.suspects(found)
    by_name = {pair.name: pair for pair in pairs}
    notes = {
        name: _explained(by_name[name], words, by_name) if place < EXPLAINED else words
        for place, (name, words) in enumerate(suspects.items())
    }
    return [TensorError(m.name, m.type, m.values, m.error, notes.get(m.name, "")) for m in found]


def _measured(pair: TensorPair) -> Measured:
    from validate import diagnosis

    every = max(1, pair.size // VALUES)
    pieces = (diagnosis.measure_piece(stored, source) for stored, source in pair.pieces(every))
    return diagnosis.measured(pair.name, pair.type, pieces)


def _explained(pair: TensorPair, words: str, by_name: Mapping[str, TensorPair]) -> str:
    from validate import diagnosis

    if pair.size > EXPLAINED_VALUES:
        return words
    stored, source = _whole(pair)
    alike = {
        name: partial(_source, other)
        for name, other in by_name.items()
        if name != pair.name and other.shape == pair.shape
    }
    said = diagnosis.explain(stored, source, alike)
    return f"{words}: {said}" if said else words


def _whole(pair: TensorPair) -> tuple[np.ndarray, np.ndarray]:
    pieces = list(pair.pieces(1))
    stored, source = (np.concatenate(parts).reshape(pair.shape) for parts in zip(*pieces, strict=True))
    return stored, source


def _source(pair: TensorPair) -> np.ndarray:
    return _whole(pair)[1]
