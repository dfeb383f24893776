"""How long a candidate writes the same as the reference, greedily, after some beginnings."""

from __future__ import annotations

from functools import cached_property

from validate import continuation
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import Ability

GREEDY_TOKENS = 64


class Writing(SessionMeasure):
    """The beginnings are those of windows, from every input set."""

    PART = "greedy"
    PLACE = 30
    NEEDS = (Ability.GENERATE,)

    def measure(self, running: RunningCandidate) -> None:
        prompts, wanted = self._reference_texts
        got = [running.session.generate(prompt, GREEDY_TOKENS) for prompt in prompts]
        running.result.greedy = continuation.compare_continuations(prompts, wanted, got)
        running.result.metrics |= running.result.greedy.metrics

    @cached_property
    def _reference_texts(self) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts from the windows, and how the reference goes on."""
        prompts = continuation.greedy_prompts(self.questions.windows, self.questions.sets_of_windows)
        return prompts, [self.reference.generate(prompt, GREEDY_TOKENS) for prompt in prompts]


MEASURE = Writing
