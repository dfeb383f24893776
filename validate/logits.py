"""Arrays of logits (token, vocab): finite or refused, worked on in float64 a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK_VALUES = 200_000  # logits turned into float64 at a time: 1.6 MB an array stays in a core's own cache


class NotComparable(ValueError):
    """The two sets of logits cannot be compared: other shapes, or values that are not finite."""


def check_finite(logits_tv: np.ndarray, who: str, first: int = 0) -> None:
    """Raise NotComparable when any value is NaN or infinite; `first` is the position of row 0."""
    bad = ~np.isfinite(logits_tv)
    if bad.any():
        row = int(bad.any(1).argmax())
        raise NotComparable(
            f"{who} logits are not finite: {int(bad[row].sum())} of {bad.shape[1]} values at position {first + row}"
        )


def chunks(count: int, vocab: int) -> Iterator[slice]:
    """The rows of a window, a few at a time."""
    rows = max(1, CHUNK_VALUES // vocab)
    for start in range(0, count, rows):
        yield slice(start, min(start + rows, count))


def exponentials(logits_tv: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """exp(logit - largest) in float64, the largest (token,), and ln of the sum of exp(logit) (token,).

    float32 alone is off by about 1e-6, which is what an F16 file's KL looks like.
    """
    largest = logits_tv.max(1).astype(np.float64)
    exp_tv = np.subtract(logits_tv, largest[:, None], dtype=np.float64)
    np.exp(exp_tv, out=exp_tv)
    return exp_tv, largest, largest + np.log(exp_tv.sum(1))


def largest(logits_tv: np.ndarray, number: int) -> np.ndarray:
    """int64 (token, number): the ids of the largest logits of each row, falling, among equals the lower id first."""
    vocab = logits_tv.shape[1]
    least = np.partition(logits_tv, vocab - number, axis=1)[:, vocab - number]
    ids = np.empty((len(logits_tv), number), np.int64)
    for row, floor, out in zip(logits_tv, least, ids, strict=True):
        some = np.flatnonzero(row >= floor)
        out[:] = some[np.argsort(-row[some], kind="stable")[:number]]
    return ids
