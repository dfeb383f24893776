"""The best choice for each of many tensors that a number of bytes has room for.

Every tensor has a few choices, each with its bytes and what it costs; costs add up over tensors. Wanted is the least
cost in no more bytes than the budget: a knapsack with one choice of each kind (multiple-choice knapsack; Kellerer,
Pferschy and Pisinger, Knapsack Problems, 11.5). A price a byte for all tensors would nearly do, but not where one of
them is a fifth of the model: a step of an embedding that does not fit would leave its bytes to others that hardly
need them. So the least cost is found for every amount of room at once, tensor by tensor, in units of the room's
131072nd part: exactly where a unit is a byte. Room that rounding up to units leaves is then spent, and changes of two
tensors at a time are made as long as one helps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Cost:
    """What a choice takes and what it costs."""

    bytes: int
    loss: float


UNITS = 1 << 17

Table = Mapping[str, Mapping[str, Cost]]
"""Tensor -> choice -> what it takes and costs."""


@dataclass(frozen=True)
class Best:
    """The choice for each tensor, in the table's order, and what they come to."""

    choices: Mapping[str, str]
    bytes: int
    loss: float


class TooSmall(ValueError):
    """A budget below the smallest that the choices allow; `smallest` is that, `held` what each tensor takes of it."""

    def __init__(self, budget: int, smallest: int, held: Mapping[str, int]) -> None:
        super().__init__(f"{budget} bytes, and the smallest choice of every tensor takes {smallest}")
        self.budget, self.smallest, self.held = budget, smallest, held


def best(table: Table, budget: int, together: Iterable[Sequence[str]] = ()) -> Best:
    """The choices of least cost in at most `budget` bytes; equal tables give equal choices.

    Tensors that stand `together` share a choice. Raises TooSmall where the smallest choices take more, ValueError for
    costs that are no numbers, and for tensors that share none.
    """
    groups = _groups(table, [tuple(names) for names in together])
    options = [_Options.of(names, table) for names in groups]
    least = sum(int(one.bytes[0]) for one in options)
    if least > budget:
        raise TooSmall(budget, least, _smallest(groups, options, table))
    picked = _exchanged(options, _filled(options, _in_units(options, budget - least), budget), budget)
    chosen = {name: one.names[at] for names, one, at in zip(groups, options, picked, strict=True) for name in names}
    chosen = {name: chosen[name] for name in table}
    return totalled(table, chosen)


def totalled(table: Table, choices: Mapping[str, str]) -> Best:
    """What these choices come to."""
    costs = [table[name][choice] for name, choice in choices.items()]
    return Best(choices, sum(cost.bytes for cost in costs), float(sum(cost.loss for cost in costs)))


def _smallest(groups: Sequence[Sequence[str]], options: Sequence[_Options], table: Table) -> dict[str, int]:
    return {name: table[name][one.names[0]].bytes for names, one in zip(groups, options, strict=True) for name in names}


def _groups(table: Table, together: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Tensors in the table's order, those that share a choice at the place of the first."""
    owner: dict[str, tuple[str, ...]] = {}
    for names in together:
        for name in names:
            if name not in table or name in owner:
                raise ValueError(f"{name} is " + ("in two groups" if name in owner else "not in the table"))
            owner[name] = tuple(names)
    return list(dict.fromkeys(owner.get(name, (name,)) for name in table))


# ---- the choices that can be right at some price


@dataclass(frozen=True, eq=False)
class _Options:
    """Of one tensor, or of some that share a choice, 255 at most: none costs as much as a smaller one."""

    names: tuple[str, ...]
    bytes: np.ndarray  # int64, rising
    loss: np.ndarray  # float64, falling

    @classmethod
    def of(cls, tensors: Sequence[str], table: Table) -> _Options:
        shared = [name for name in table[tensors[0]] if all(name in table[tensor] for tensor in tensors)]
        if not shared:
            raise ValueError(f"no choice for {', '.join(tensors)}" + (" that all of them have" * (len(tensors) > 1)))
        rows = [
            (sum(table[t][name].bytes for t in tensors), float(sum(table[t][name].loss for t in tensors)), name)
            for name in shared
        ]
        if not all(np.isfinite(loss) for _, loss, _ in rows):
            raise ValueError(f"a cost of {tensors[0]} is no number")
        kept: list[tuple[int, float, str]] = []
        for row in sorted(rows):
            if not kept or row[1] < kept[-1][1]:
                kept.append(row)
        sizes, losses = np.array([row[0] for row in kept], np.int64), np.array([row[1] for row in kept])
        return cls(tuple(row[2] for row in kept), sizes, losses)


# ---- the search


def _in_units(options: Sequence[_Options], room: int) -> list[int]:
    """Places of the options of least cost, what they take beyond the smallest rounded up to units of the room."""
    unit = max(1, -(-room // UNITS))
    count = room // unit
    least = np.zeros(count + 1)  # of the tensors so far, by the units that they may take
    taken = np.zeros((len(options), count + 1), np.uint8)
    for one, places in zip(options, taken, strict=True):
        found = least + one.loss[0]
        for place in range(1, len(one.names)):
            units = -(-int(one.bytes[place] - one.bytes[0]) // unit)
            if units > count:
                break
            other = least[: count + 1 - units] + one.loss[place]
            better = other < found[units:]
            found[units:][better] = other[better]
            places[units:][better] = place
        least = found
    picked, left = [], count
    for one, places in zip(reversed(options), reversed(taken), strict=True):
        picked.append(int(places[left]))
        left -= -(-int(one.bytes[picked[-1]] - one.bytes[0]) // unit)
    return picked[::-1]


def _size(options: Sequence[_Options], picked: Sequence[int]) -> int:
    return sum(int(one.bytes[at]) for one, at in zip(options, picked, strict=True))


def _filled(options: Sequence[_Options], picked: list[int], budget: int) -> list[int]:
    """Room that is left goes where a byte saves most, as long as anything fits."""
    picked, left = list(picked), budget - _size(options, picked)
    while True:
        found = (0.0, -1, -1)
        for number, (one, at) in enumerate(zip(options, picked, strict=True)):
            for there in range(at + 1, len(one.names)):
                more = int(one.bytes[there] - one.bytes[at])
                saved = float(one.loss[at] - one.loss[there]) / more
                if more <= left and saved > found[0]:
                    found = (saved, number, there)
        if found[1] < 0:
            return picked
        _, number, there = found
        left -= int(options[number].bytes[there] - options[number].bytes[picked[number]])
        picked[number] = there


def _exchanged(options: Sequence[_Options], picked: list[int], budget: int) -> list[int]:
    """Two tensors change at a time, one up and one down, while that saves anything; then what fits fills up again."""
    for _ in range(64 * len(options)):  # each saves something, so that it ends; a bound all the same
        change = _best_exchange(options, picked, budget - _size(options, picked))
        if change is None:
            break
        for number, there in change:
            picked[number] = there
        picked = _filled(options, picked, budget)
    return picked


@dataclass(frozen=True, eq=False)
class _Moves:
    """Changes of one tensor each: in bytes and in cost, of which tensor, and to which option."""

    bytes: np.ndarray
    loss: np.ndarray
    number: np.ndarray
    there: np.ndarray

    @classmethod
    def of(cls, options: Sequence[_Options], picked: Sequence[int], *, up: bool) -> _Moves:
        rows = [
            (int(one.bytes[there] - one.bytes[at]), float(one.loss[there] - one.loss[at]), number, there)
            for number, (one, at) in enumerate(zip(options, picked, strict=True))
            for there in (range(at + 1, len(one.names)) if up else range(at))
        ]
        sizes, losses, numbers, places = zip(*rows, strict=True) if rows else ((), (), (), ())
        columns = np.array(sizes, np.int64), np.array(losses, np.float64), np.array(numbers, int), np.array(places, int)
        return cls(*columns)


def _best_exchange(
    options: Sequence[_Options], picked: Sequence[int], left: int
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The pair of a larger and a smaller choice that fits and saves most; None where none saves anything."""
    up, down = _Moves.of(options, picked, up=True), _Moves.of(options, picked, up=False)
    if not len(up.bytes) or not len(down.bytes):
        return None
    order = np.argsort(down.bytes, kind="stable")  # what saves most bytes first
    cheapest, others = _two_cheapest(down.loss[order], down.number[order])
    fitting = np.searchsorted(down.bytes[order], left - up.bytes, side="right")  # so many of them make room
    best_saving, found = 1e-12 * float(sum(one.loss[at] for one, at in zip(options, picked, strict=True))), None
    for move in np.flatnonzero(fitting > 0):
        last = fitting[move] - 1
        partner = cheapest[last] if down.number[order[cheapest[last]]] != up.number[move] else others[last]
        if partner < 0:
            continue
        place = order[partner]
        saving = -float(up.loss[move] + down.loss[place])
        if saving > best_saving:
            ends = (int(up.number[move]), int(up.there[move])), (int(down.number[place]), int(down.there[place]))
            best_saving, found = saving, ends
    return found


def _two_cheapest(losses: np.ndarray, numbers: np.ndarray) -> tuple[list[int], list[int]]:
    """For each beginning of the list, where its least cost is, and where the least of another tensor is (-1: none)."""
    first, second = -1, -1
    firsts, seconds = [], []
    for place, (loss, number) in enumerate(zip(losses, numbers, strict=True)):
        if first < 0 or loss < losses[first]:
            second = first if first >= 0 and numbers[first] != number else second
            first = place
        elif number != numbers[first] and (second < 0 or loss < losses[second]):
            second = place
        firsts.append(first)
        seconds.append(second)
    return firsts, seconds
