"""Which multiple-choice items a candidate answers otherwise than the reference."""

from __future__ import annotations

from functools import cached_property

from validate import choices, flips
from validate.measures.base import RunningCandidate, SessionMeasure


class Flips(SessionMeasure):
    """Asked where a recipe names `choices`; of a candidate's logits only what scores need is kept."""

    PART = "choices"
    PLACE = 55

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self.questions.choices)

    def prepare(self) -> None:
        """The reference's scores, while its weights are there."""
        if self.questions.choices:
            _ = self._reference_scores

    def measure(self, running: RunningCandidate) -> None:
        questions, result = self.questions.choices, running.result
        wanted = self._reference_scores
        self.begin(running, len(questions), "item")
        got = list[list[float]]()
        for found in choices.scores(running.session, questions):
            got.append(found)
            self.progress.advance(1)
        result.choices, metrics, draws = flips.flips(questions, wanted, got)
        result.add(metrics, draws)
        for name in draws:  # of all right or none, Jeffreys' interval ends a hair before them
            low, high = result.intervals[name]
            result.intervals[name] = min(low, metrics[name]), max(high, metrics[name])

    @cached_property
    def _reference_scores(self) -> list[list[float]]:
        self.progress.start("choices of the source", len(self.questions.choices), "item")
        return self.reference.choice_scores(self.questions.choices, self.progress.advance)


MEASURE = Flips
