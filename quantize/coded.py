"""Blocks taken apart into levels and scales, and put together again: of every type whose values lie on a grid.

    value = d * scale * level + e * minimum

`level` is one a value, `scale` and `minimum` are whole numbers of `width` neighbours, `d` and `e` float16 numbers of
`span` neighbours. Types of 32 values have d alone, or d and e: their scale, and minimum, is 1. Where levels are not
all whole numbers from `low` to `high`, `table` has them; or they come in groups, entries of a `book` with signs. What
ggml calls dmin is -e.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module

import numpy as np

from quantize.blocks import BlockType


@dataclass
class Coded:
    """Rows of blocks, all float32: levels (rows, n); scales, minimums (rows, n / width); d, e (rows, n / span)."""

    levels: np.ndarray
    d: np.ndarray
    e: np.ndarray
    scales: np.ndarray
    minimums: np.ndarray

    def arrays(self) -> tuple[np.ndarray, ...]:
        """All of it, in the order of the fields."""
        return self.levels, self.d, self.e, self.scales, self.minimums

    def values(self) -> np.ndarray:
        """float32 (rows, n): what a reader makes of it."""
        n = self.levels.shape[1]
        per, each = n // self.d.shape[1], n // self.scales.shape[1]
        steps = self.d.repeat(per // each, 1) * self.scales
        offsets = self.e.repeat(per // each, 1) * self.minimums
        return np.asarray(self.levels * steps.repeat(each, 1) + offsets.repeat(each, 1))


NO_BOOK = np.empty((0, 1), np.float32)


@dataclass(frozen=True, eq=False)
class Layout:
    """A type's grid. `unpack` makes Coded of blocks (count, bytes), a row each; `pack` the other way round."""

    kind: BlockType
    width: int
    low: int
    high: int
    unpack: Callable[[np.ndarray], Coded]
    pack: Callable[[Coded], np.ndarray]
    scales: tuple[int, int] = (1, 1)  # lowest and highest
    minimums: tuple[int, int] = (0, 0)  # (0, 0): none
    table: tuple[float, ...] = ()  # the levels in rising order, `low` to `high` when empty
    step: int = 1  # by how much neighbouring scales differ
    book: np.ndarray = field(default_factory=lambda: NO_BOOK)  # (entries, 8 or 4): magnitudes of levels in groups
    even: bool = False  # of eight levels an even number is negative

    @property
    def span(self) -> int:
        """Columns that share d."""
        return self.kind.values

    @property
    def affine(self) -> bool:
        """Whether there are minimums."""
        return self.minimums != (0, 0)

    def coded(self, encoded: np.ndarray) -> Coded:
        """uint8 (rows, row bytes) taken apart."""
        rows = len(encoded)
        made = self.unpack(np.ascontiguousarray(encoded).reshape(-1, self.kind.bytes))
        return Coded(*(np.asarray(array, np.float32).reshape(rows, -1) for array in made.arrays()))

    def encoded(self, coded: Coded) -> np.ndarray:
        """uint8 (rows, row bytes) of it."""
        rows, blocks = coded.d.shape
        split = Coded(*(array.reshape(rows * blocks, -1) for array in coded.arrays()))
        return np.ascontiguousarray(self.pack(split)).reshape(rows, -1)


_MODULES: Mapping[str, tuple[str, ...]] = {
    "coded_legacy": ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"),
    "coded_kquants": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "coded_iq4": ("IQ4_NL", "IQ4_XS"),
    "coded_codebook": ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
}

CODED = frozenset(name for names in _MODULES.values() for name in names)
"""The types that can be taken apart so."""


@cache
def layout(name: str) -> Layout:
    """Of one of the types in CODED."""
    module = next(module for module, names in _MODULES.items() if name in names)
    found: Mapping[str, Layout] = import_module(f"quantize.{module}").LAYOUTS
    return found[name]


# -- pieces of blocks --------------------------------------------------------------------------------------------------


def halves(blocks: np.ndarray, at: int) -> np.ndarray:
    """float32 (count, 1): the float16 at byte `at` of each block."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view("<f2").astype(np.float32)


def half_bytes(values: np.ndarray) -> np.ndarray:
    """uint8 (count, 2) of float32 (count, 1), numbers that float16 has."""
    return np.ascontiguousarray(values, "<f2").view(np.uint8)


def as_bytes(values: np.ndarray, low: int = 0) -> np.ndarray:
    """uint8 of float32 whole numbers from `low` on, counted from there."""
    return np.asarray((values - np.float32(low)).astype(np.uint8))


def ones(count: int) -> np.ndarray:
    """float32 (count, 1): the scale of a block whose d is all there is."""
    return np.ones((count, 1), np.float32)


def nibbles(packed: np.ndarray, half: int) -> np.ndarray:
    """uint8 (count, values): byte j of every `half` has value j below, value j + half above."""
    groups = packed.reshape(len(packed), -1, 1, half)
    return np.asarray(np.concatenate([groups & 15, groups >> 4], 2)).reshape(len(packed), -1)


def packed_nibbles(values: np.ndarray, half: int) -> np.ndarray:
    """The other way round."""
    groups = values.reshape(len(values), -1, 2, half)
    return np.asarray(groups[:, :, 0] | groups[:, :, 1] << 4).reshape(len(values), -1)
