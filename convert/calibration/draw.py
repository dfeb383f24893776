"""Choices by seed: the same on every machine and every version of Python."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A source of choices. Of a named list each entry comes up once before any comes up again."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)
        self._decks: dict[str, list[int]] = {}

    def below(self, end: int) -> int:
        """0 <= result < end."""
        return int(self._random.random() * end)  # random() alone is promised to stay as it is

    def number(self, low: int, high: int) -> int:
        """low <= result <= high."""
        return low + self.below(high - low + 1)

    def pick(self, items: Sequence[T]) -> T:
        """One of them."""
        return items[self.below(len(items))]

    def order(self, count: int) -> list[int]:
        """0 … count - 1, shuffled."""
        places = list(range(count))
        for end in range(count - 1, 0, -1):
            other = self.below(end + 1)
            places[end], places[other] = places[other], places[end]
        return places

    def deal(self, name: str, items: Sequence[T]) -> T:
        """The next of the list called `name`, which is shuffled anew when all its entries have come up."""
        deck = self._decks.get(name)
        if not deck:
            deck = self._decks[name] = self.order(len(items))
        return items[deck.pop()]
