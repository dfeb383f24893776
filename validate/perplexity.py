"""Perplexity of both sides on the same tokens, their ratio, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from validate.drift import NotComparable, WindowDrift, standard_error


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean negative log-likelihood, over every token of every window but its first.

    `ppl_ratio_se` is the paired standard error of the ratio: the differences token by token and in blocks, not the two
    spreads, which are a hundred times larger and mostly the text's own.
    """

    tokens: int
    ppl_reference: float
    ppl: float
    ppl_ratio: float
    ppl_ratio_se: float
    ppl_change: float


def perplexity(windows: Sequence[WindowDrift]) -> Perplexity:
    """Both perplexities over all windows; raises NotComparable when no token is scored."""
    reference = np.concatenate([w.nll_reference for w in windows]) if windows else np.empty(0)
    candidate = np.concatenate([w.nll_candidate for w in windows]) if windows else np.empty(0)
    if not len(reference):
        raise NotComparable("no token has one before it in its window: nothing to score")
    difference = candidate - reference
    ratio = float(np.exp(difference.mean()))
    error, _ = standard_error([w.nll_candidate - w.nll_reference for w in windows])
    return Perplexity(
        tokens=len(reference),
        ppl_reference=float(np.exp(reference.mean())),
        ppl=float(np.exp(candidate.mean())),
        ppl_ratio=ratio,
        ppl_ratio_se=ratio * error,
        ppl_change=abs(ratio - 1),
    )
