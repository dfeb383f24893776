"""How far one runtime's logits are from another's, position by position; streams, stores no logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

CHUNK_VALUES = 2_000_000  # logits turned into float64 at a time: 16 MB an array, whatever the vocabulary
BLOCK = 64  # consecutive positions that count as one observation in a standard error
MIN_BLOCKS = 8  # shorter blocks where a text is too short for so many


class NotComparable(ValueError):
    """The two sets of logits cannot be compared: other shapes, or values that are not finite."""


@dataclass(frozen=True)
class WindowDrift:
    """Per-position differences of one window, float64. The last position has no next token in the window."""

    kl: np.ndarray  # (token,) KL(reference || candidate), nats
    same_top: np.ndarray  # (token,) bool
    logit_abs: np.ndarray  # (token,) largest |difference| of a logit
    nll_reference: np.ndarray  # (token - 1,) -ln p of the text's own next token
    nll_candidate: np.ndarray  # (token - 1,)


@dataclass(frozen=True)
class Drift:
    """Drift over all positions. `*_ci95` is the half width of the 95 % confidence interval of that mean."""

    positions: int
    kl_mean: float
    kl_mean_ci95: float
    kl_median: float
    kl_p99: float
    kl_max: float
    top1: float
    top1_ci95: float
    p_rms: float
    logit_max_abs: float


def compare(reference_tv: np.ndarray, candidate_tv: np.ndarray, tokens: Sequence[int]) -> WindowDrift:
    """Differences at every position of one window.

    `reference_tv` and `candidate_tv` are logits (token, vocab) of the same `tokens`. Everything is computed in float64,
    a few rows at a time: float32 log-softmax alone is off by about 1e-6, which is what an F16 file's KL looks like.
    Raises NotComparable for other shapes and for any NaN or infinity.
    """
    if reference_tv.shape != candidate_tv.shape:
        raise NotComparable(
            f"logits have shape {candidate_tv.shape}, the reference's {reference_tv.shape} (token, vocab): "
            "the two vocabularies are not the same"
        )
    count, vocab = reference_tv.shape
    if count != len(tokens):
        raise NotComparable(f"logits of {count} positions for {len(tokens)} tokens")
    next_ids = np.asarray(tokens[1:], np.int64)
    rows = max(1, CHUNK_VALUES // vocab)
    parts = [
        _compare_rows(reference_tv[i : i + rows], candidate_tv[i : i + rows], next_ids[i : i + rows], i)
        for i in range(0, count, rows)
    ]
    return WindowDrift(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(WindowDrift)))


def _compare_rows(reference_tv: np.ndarray, candidate_tv: np.ndarray, next_ids: np.ndarray, first: int) -> WindowDrift:
    for who, logits_tv in (("the reference's", reference_tv), ("the candidate's", candidate_tv)):
        check_finite(logits_tv, who, first)
    logp, logq = _log_softmax(reference_tv), _log_softmax(candidate_tv)
    scored = np.arange(len(next_ids))
    return WindowDrift(
        # Rounding can leave a sum of zeros at -1e-17; KL is never negative.
        kl=np.maximum((np.exp(logp) * (logp - logq)).sum(1), 0.0),
        same_top=reference_tv.argmax(1) == candidate_tv.argmax(1),
        logit_abs=np.abs(reference_tv.astype(np.float64) - candidate_tv).max(1),
        nll_reference=-logp[scored, next_ids],
        nll_candidate=-logq[scored, next_ids],
    )


def largest_difference(one: np.ndarray, other: np.ndarray, who: str = "the candidate's") -> float:
    """The largest |difference| of two arrays of logits of one side; raises NotComparable as `compare` does."""
    if one.shape != other.shape:
        raise NotComparable(f"{who} logits have shapes {one.shape} and {other.shape}, read at once and one at a time")
    for logits in (one, other):
        check_finite(logits, who)
    return float(np.abs(one.astype(np.float64) - other).max())


def check_finite(logits_tv: np.ndarray, who: str, first: int = 0) -> None:
    """Raise NotComparable when any value is NaN or infinite; `first` is the position of row 0."""
    bad = ~np.isfinite(logits_tv)
    if bad.any():
        row = int(bad.any(1).argmax())
        raise NotComparable(
            f"{who} logits are not finite: {int(bad[row].sum())} of {bad.shape[1]} values at position {first + row}"
        )


def _log_softmax(logits_tv: np.ndarray) -> np.ndarray:
    shifted = logits_tv.astype(np.float64)
    shifted -= shifted.max(1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(1, keepdims=True))
    return shifted


def summarize(windows: Sequence[WindowDrift]) -> Drift:
    """The drift over all positions of all windows; raises NotComparable when there is none."""
    if not windows:
        raise NotComparable("no window of text was compared")
    kl, same_top, logit_abs = (
        np.concatenate([getattr(w, name) for w in windows]) for name in ("kl", "same_top", "logit_abs")
    )
    change = np.concatenate([np.exp(-w.nll_candidate) - np.exp(-w.nll_reference) for w in windows])
    return Drift(
        positions=len(kl),
        kl_mean=float(kl.mean()),
        kl_mean_ci95=ci95([w.kl for w in windows]),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.percentile(kl, 99)),
        kl_max=float(kl.max()),
        top1=float(same_top.mean()),
        top1_ci95=ci95([w.same_top for w in windows]),
        p_rms=float(np.sqrt(np.mean(change**2))) if len(change) else 0.0,
        logit_max_abs=float(logit_abs.max()),
    )


def standard_error(values: Sequence[np.ndarray[Any, Any]]) -> tuple[float, int]:
    """The standard error of the mean over all windows' values, and how many blocks it rests on (0: it is infinite).

    Neighbours in a text are not independent: one hard sentence is hard for many tokens. So the spread is taken between
    blocks of consecutive positions (batch means), and where that comes out smaller than the spread between positions,
    which is chance, the latter counts.
    """
    total = sum(map(len, values))
    if total < 2:
        return float("inf"), 0
    length = max(1, min(BLOCK, total // MIN_BLOCKS))
    mean = sum(float(v.sum(dtype=np.float64)) for v in values) / total
    centred = [v - mean for v in values if len(v)]
    sums = np.concatenate([np.add.reduceat(v, np.arange(0, len(v), length)) for v in centred])
    blocks = len(sums)
    between = float((sums**2).sum()) * blocks / (blocks - 1)
    alone = sum(float((v**2).sum()) for v in centred) * total / (total - 1)
    return max(between, alone) ** 0.5 / total, blocks


def ci95(values: Sequence[np.ndarray[Any, Any]]) -> float:
    """Half width of the 95 % confidence interval of the mean over all windows' values."""
    error, blocks = standard_error(values)
    return _t975(blocks - 1) * error if blocks > 1 else float("inf")


def _t975(freedom: int) -> float:
    """The 97.5th percentile of Student's t, by its expansion around the normal's (Abramowitz and Stegun 26.7.5).

    Right to 0.001 from 7 degrees of freedom, which MIN_BLOCKS sees to for all but a handful of tokens.
    """
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
