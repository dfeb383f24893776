"""How long a candidate writes the same as the reference, greedily, after some beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from validate import continuation
from validate.measurement import Candidate, Measurement
from validate.measures._drafted import reference_texts
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import Ability

GREEDY_TOKENS = 64


class Writing(SessionMeasure):
    """The beginnings are those of windows, from every input set."""

    PART = "greedy"
    PLACE = 30
    NEEDS = (Ability.GENERATE,)
    WRITTEN = "greedy"

    def measure(self, running: RunningCandidate) -> None:
        self.begin(running, len(self._prompts), "text")
        running.result.written[self.WRITTEN] = running.session.generate_all(self._prompts, GREEDY_TOKENS)
        self.progress.advance(len(self._prompts))

    def settle(self, wrote: Sequence[tuple[Candidate, Measurement]]) -> None:
        prompts = self._prompts
        wanted = reference_texts(
            self,
            lambda rows, texts: self.reference.choices([prompts[i] for i in rows], texts),
            wrote,
            GREEDY_TOKENS,
        )
        for _, result in wrote:
            result.greedy = continuation.compare_continuations(prompts, wanted, result.written[self.WRITTEN])
            result.metrics |= result.greedy.metrics

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return continuation.greedy_prompts(self.questions.windows, self.questions.sets_of_windows)


MEASURE = Writing
