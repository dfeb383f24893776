"""Tensors that lie in pieces: one after the other in a flat row, or as blocks of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from convert.source.checkpoint import STORAGE, LazyTensor


@dataclass(frozen=True)
class Piece:
    """Some values of a flat row; loaded when they are asked for."""

    count: int
    load: Callable[[int, int], np.ndarray]  # those from one place to another


def flat_tensor(name: str, shape: tuple[int, ...], dtype: str, pieces: Sequence[Piece], file: str) -> LazyTensor:
    """A tensor whose values are those of the pieces, in order; what is left over at the end is padding."""
    columns = prod(shape[1:])

    def values(start: int, stop: int) -> np.ndarray:
        found, at = [], 0
        for piece in pieces:
            first, last = max(start - at, 0), min(stop - at, piece.count)
            if first < last:
                found.append(piece.load(first, last))
            at += piece.count
        return np.concatenate(found) if found else np.empty(0, STORAGE[dtype])

    def rows(start: int, stop: int) -> np.ndarray:
        return values(start * columns, stop * columns).reshape(stop - start, *shape[1:])

    return LazyTensor(name, shape, dtype, lambda: values(0, prod(shape)).reshape(shape), file, rows=rows)


@dataclass(frozen=True)
class Block:
    """A part of a tensor: where it begins, how large it is, and its values when they are asked for."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    load: Callable[[], np.ndarray]


def block_tensor(name: str, shape: tuple[int, ...], dtype: str, blocks: Sequence[Block], file: str) -> LazyTensor:
    """A tensor that blocks make whole; one block is in memory beside the rows that are asked for."""
    kept: dict[int, np.ndarray] = {}

    def of(number: int) -> np.ndarray:
        if number not in kept:
            kept.clear()
            kept[number] = blocks[number].load()
        return kept[number]

    def rows(start: int, stop: int) -> np.ndarray:
        whole = np.empty((stop - start, *shape[1:]), STORAGE[dtype])
        for number, block in enumerate(blocks):
            top = block.offsets[0]
            first, last = max(start, top), min(stop, top + block.sizes[0])
            if first < last:
                others = zip(block.offsets[1:], block.sizes[1:], strict=True)
                place = (slice(first - start, last - start), *(slice(at, at + size) for at, size in others))
                whole[place] = of(number)[first - top : last - top]
        return whole

    def load() -> np.ndarray:
        return rows(0, shape[0]) if shape else of(0).reshape(shape)

    return LazyTensor(name, shape, dtype, load, file, kept.clear, rows if shape else None)
