"""What becomes of answers to multiple-choice items: how many are right on either side, and which changed.

Two models with the same share of right answers may still answer differently: what is right on one side and wrong on the
other are flips (Dutta et al., Accuracy is Not All You Need, 2024). Whether more went one way than chance would have it
is McNemar's test, in its exact form: of items that flipped, each way is as likely.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from validate import statistics
from validate.choices import Question

EXAMPLES = 10  # changed answers that a report shows


@dataclass(frozen=True)
class Counts:
    """Answers to `items` items on both sides; what changed among wrong ones is `wrong_to_wrong`."""

    name: str  # of the set; of all, empty
    items: int
    right_reference: int
    right: int
    right_to_wrong: int
    wrong_to_right: int
    wrong_to_wrong: int
    p: float  # McNemar's, two-sided


@dataclass(frozen=True)
class Change:
    """An item with another answer than the source's."""

    set: str
    shown: str  # the end of what was read
    right: str
    reference: str
    candidate: str


@dataclass(frozen=True)
class Flips:
    """The answers to all items: by the sum of log-probabilities (lm-eval's acc), and by it over characters."""

    all: Counts
    normalized: Counts  # lm-eval's acc_norm
    sets: Sequence[Counts]
    changes: Sequence[Change]  # the first EXAMPLES of those by the sum, those that were right before the others


def flips(
    questions: Sequence[Question], reference: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]
) -> tuple[Flips, dict[str, float], dict[str, np.ndarray]]:
    """What changed, its metrics, and draws of those that can be resampled; scores are those of every choice."""
    right = np.array([q.right for q in questions])
    ours, theirs = _answers(reference), _answers(candidate)
    lengths = [q.lengths for q in questions]
    ours_norm, theirs_norm = _answers(reference, lengths), _answers(candidate, lengths)
    whole, normalized = count("", right, ours, theirs), count("", right, ours_norm, theirs_norm)
    names = [q.set for q in questions]
    sets = [_count_set(name, names, right, ours, theirs) for name in dict.fromkeys(names)]
    found = Flips(whole, normalized, sets if len(sets) > 1 else (), _changes(questions, ours, theirs))
    return found, _metrics(whole, normalized), _draws(right, ours, theirs)


def _answers(scores: Sequence[Sequence[float]], lengths: Sequence[Sequence[int]] | None = None) -> np.ndarray:
    """The best choice of each item; of equal ones the first."""
    if lengths is not None:
        scores = [np.divide(row, size).tolist() for row, size in zip(scores, lengths, strict=True)]
    return np.array([int(np.argmax(row)) for row in scores], np.int64)


def count(name: str, right: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Counts:
    """Answers (item,) of both sides against the right ones."""
    was, is_ = ours == right, theirs == right
    lost, won = int((was & ~is_).sum()), int((~was & is_).sum())
    astray = int((~was & ~is_ & (ours != theirs)).sum())
    return Counts(name, len(right), int(was.sum()), int(is_.sum()), lost, won, astray, mcnemar(lost, won))


def _count_set(name: str, names: Sequence[str], right: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Counts:
    here = np.array([other == name for other in names])
    return count(name, right[here], ours[here], theirs[here])


def mcnemar(one_way: int, other_way: int) -> float:
    """How often as uneven a split of so many flips comes about where either way is as likely: exact, two-sided."""
    number, fewer = one_way + other_way, min(one_way, other_way)
    tail = sum(comb(number, k) for k in range(fewer + 1))
    return min(1.0, tail / (1 << number - 1)) if number else 1.0


def _metrics(whole: Counts, normalized: Counts) -> dict[str, float]:
    n = whole.items
    return {
        "choice_accuracy": whole.right / n,
        "choice_accuracy_reference": whole.right_reference / n,
        "choice_accuracy_norm": normalized.right / n,
        "choice_accuracy_norm_reference": normalized.right_reference / n,
        "choice_drop": (whole.right_reference - whole.right) / n,
        "flips": (whole.right_to_wrong + whole.wrong_to_right) / n,
        "mcnemar_p": whole.p,
    }


def _draws(right: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> dict[str, np.ndarray]:
    was, is_ = (ours == right).astype(float), (theirs == right).astype(float)
    return {
        "choice_accuracy": statistics.shares(is_),
        "choice_accuracy_reference": statistics.shares(was),
        "choice_drop": statistics.shares(was - is_, lowest=-1.0),
        "flips": statistics.shares(was != is_),
    }


def _changes(questions: Sequence[Question], ours: np.ndarray, theirs: np.ndarray) -> list[Change]:
    changed = [
        (q.right != one, Change(q.set, q.shown, q.choices[q.right], q.choices[one], q.choices[other]))
        for q, one, other in zip(questions, ours.tolist(), theirs.tolist(), strict=True)
        if one != other
    ]
    return [change for _, change in sorted(changed, key=lambda pair: pair[0])[:EXAMPLES]]
