"""How far a candidate's logits are from the reference's over all windows: KL, agreement, perplexity, worst places."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from validate import drift, enough, slices
from validate.compressed_logits import CompressedLogits
from validate.measurement import WindowSums
from validate.measures.base import Comparison, RunningCandidate, Window, WindowMeasure
from validate.worst import Worst


class Drift(WindowMeasure):
    """Each window's logits of both sides are compared as soon as they are there, and forgotten."""

    PART = "text"
    PLACE = 10

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._texts: WeakKeyDictionary[RunningCandidate, _Text] = WeakKeyDictionary()

    def compare(
        self, running: RunningCandidate, window: Window, reference: CompressedLogits, logits_tv: np.ndarray
    ) -> None:
        self._texts.setdefault(running, _Text()).add(window, reference, logits_tv)

    def has_enough(self, running: RunningCandidate) -> bool:
        """Whether the interval of every limited metric lies on one side of its limit."""
        return enough.decide(self._texts[running].drifts, running.candidate.limits).decided

    def measure(self, running: RunningCandidate) -> None:
        text, result = self._texts.pop(running, _Text()), running.result
        if self.questions.steps:
            result.reading = enough.reading(text.drifts, enough.decide(text.drifts, running.candidate.limits))
        summary = drift.summarize(text.drifts)
        result.metrics |= summary.metrics
        result.intervals |= summary.intervals
        result.draws |= summary.draws
        result.quantiles = summary.quantiles
        piece = self.reference.pieces().__getitem__
        tokens, sets = [w.tokens for w in text.windows], [w.set for w in text.windows]
        result.slices = slices.slices(text.drifts, tokens, sets, piece)
        result.worst = text.worst.rows(self.reference.detokenize, piece)
        result.windows = [_sums(window) for window in text.drifts]


class _Text:
    """What one candidate's logits come to, window by window."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self.drifts: list[drift.WindowDrift] = []
        self.worst = Worst()

    def add(self, window: Window, reference: CompressedLogits, logits_tv: np.ndarray) -> None:
        found = drift.compare(reference, logits_tv, window.tokens)
        self.windows.append(window)
        self.drifts.append(found)
        self.worst.add(window.set, window.number, window.tokens, reference, logits_tv, found)


def _sums(window: drift.WindowDrift) -> WindowSums:
    return WindowSums(
        positions=len(window.kl),
        scored=len(window.nll_candidate),
        kl=float(window.kl.sum()),
        top1=int(window.same_top.sum()),
        nll=float(window.nll_candidate.sum()),
        nll_reference=float(window.nll_reference.sum()),
    )


MEASURE = Drift
