"""The positions at which a candidate is furthest from the reference, with their text: a person reads what broke."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from validate.compressed_logits import CompressedLogits
from validate.drift import WindowDrift
from validate.logits import exponentials, largest
from validate.spelling import spelled

SHOWN = 10
A_WINDOW = 3  # at most, and as far apart as
APART = 16  # positions: what breaks at one token goes on for a few, and would fill the list with one spot
GUESSES = 3
BEFORE_TOKENS = 60  # of which the last BEFORE characters are shown
BEFORE = 80
LEAST = 1e-9  # nats; less is rounding


@dataclass(frozen=True)
class Guess:
    """A token and its probability."""

    text: str
    probability: float


@dataclass(frozen=True)
class Row:
    """A position: the end of the text that was read, the text's own next token, and both sides' most likely ones."""

    set: str
    window: int
    position: int
    kl: float
    before: str
    next: str  # empty at a window's end
    reference: list[Guess]
    candidate: list[Guess]


@dataclass(frozen=True)
class _Spot:
    """A row whose tokens are ids."""

    set: str
    window: int
    position: int
    kl: float
    before: Sequence[int]
    next: int | None
    reference: list[tuple[int, float]]
    candidate: list[tuple[int, float]]


class Worst:
    """The SHOWN worst positions of one candidate, while windows go by."""

    def __init__(self) -> None:
        self._spots: list[_Spot] = []

    def add(  # noqa: PLR0913, PLR0917 - what there is of a window
        self,
        name: str,
        number: int,
        tokens: Sequence[int],
        reference: CompressedLogits,
        logits_tv: np.ndarray,
        drift: WindowDrift,
    ) -> None:
        """Take in a window: `name` is its input set's, `number` its place among all windows."""
        least = self._spots[-1].kl if len(self._spots) == SHOWN else LEAST
        for position in _apart(drift.kl, least):
            self._spots.append(
                _Spot(
                    name,
                    number,
                    position,
                    float(drift.kl[position]),
                    tokens[max(0, position + 1 - BEFORE_TOKENS) : position + 1],
                    tokens[position + 1] if position + 1 < len(tokens) else None,
                    _pairs(*reference.top(position, GUESSES)),
                    _top(logits_tv[position : position + 1]),
                )
            )
        self._spots = sorted(self._spots, key=lambda spot: -spot.kl)[:SHOWN]

    def rows(self, detokenize: Callable[[Sequence[int]], str], pieces: Callable[[int], str]) -> list[Row]:
        """The worst first. `detokenize` makes text of ids, `pieces` gives the vocabulary's spelling of one."""

        def guesses(pairs: list[tuple[int, float]]) -> list[Guess]:
            return [Guess(spelled(pieces(id_)), probability) for id_, probability in pairs]

        return [
            Row(
                spot.set,
                spot.window,
                spot.position,
                spot.kl,
                detokenize(list(spot.before))[-BEFORE:],
                "" if spot.next is None else spelled(pieces(spot.next)),
                guesses(spot.reference),
                guesses(spot.candidate),
            )
            for spot in self._spots
        ]


def _apart(kl: np.ndarray, least: float) -> list[int]:
    """The A_WINDOW worst positions above `least`, no two nearer than APART."""
    found: list[int] = []
    for position in np.argsort(-kl, kind="stable"):
        if kl[position] <= least or len(found) == A_WINDOW:
            break
        if all(abs(int(position) - other) >= APART for other in found):
            found.append(int(position))
    return found


def _top(logits_tv: np.ndarray) -> list[tuple[int, float]]:
    """The most likely tokens of one row and their probabilities."""
    ids = largest(logits_tv, min(GUESSES, logits_tv.shape[1]))[0]
    return _pairs(ids, np.exp(logits_tv[0, ids].astype(np.float64) - exponentials(logits_tv)[2]))


def _pairs(ids: np.ndarray, probabilities: np.ndarray) -> list[tuple[int, float]]:
    return list(zip(ids.tolist(), probabilities.tolist(), strict=True))
