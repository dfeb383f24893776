"""Whether an output is surer or less sure of the next token than the source is."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from validate.compressed_logits import CompressedLogits
from validate.logits import check_finite, chunks, exponentials
from validate.measures.base import Comparison, RunningCandidate, Window, WindowMeasure


class Entropy(WindowMeasure):
    """The entropy of the next token's distribution, mean over positions, of the candidate less the source's."""

    PART = "entropy"
    PLACE = 20

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._differences: WeakKeyDictionary[RunningCandidate, list[np.ndarray]] = WeakKeyDictionary()

    def compare(
        self, running: RunningCandidate, window: Window, reference: CompressedLogits, logits_tv: np.ndarray
    ) -> None:
        check_finite(logits_tv, "the candidate's")
        found = of_logits(logits_tv) - of_reference(reference)
        self._differences.setdefault(running, []).append(found)

    def measure(self, running: RunningCandidate) -> None:
        differences = np.concatenate(self._differences.pop(running, [np.zeros(1)]))
        running.result.metrics["entropy_change"] = abs(float(differences.mean()))


def of_logits(logits_tv: np.ndarray) -> np.ndarray:
    """float64 (token,) entropy in nats of every row, computed a few rows at a time."""
    return np.concatenate([_rows(logits_tv[rows]) for rows in chunks(*logits_tv.shape)])


def _rows(logits_tv: np.ndarray) -> np.ndarray:
    exp_tv, largest, logsumexp = exponentials(logits_tv)
    p_tv = exp_tv / exp_tv.sum(1, keepdims=True)
    return np.asarray(logsumexp - largest - np.einsum("tv,tv->t", p_tv, logits_tv - largest[:, None]))


def of_reference(reference: CompressedLogits) -> np.ndarray:
    """The same of the reference; where not every token was kept, the others' part is estimated from their sample."""
    if reference.whole:
        return of_logits(reference.logits)
    logp = reference.logits - np.repeat(reference.logsumexp, np.diff(reference.starts))
    kept = np.add.reduceat(-np.exp(logp) * logp, reference.starts[:-1])
    others = (reference.logsumexp[:, None] - reference.sample_logits).mean(1)
    return np.asarray(kept + np.exp(reference.log_rest) * others)


MEASURE = Entropy
