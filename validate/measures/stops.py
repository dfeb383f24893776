"""Whether a candidate stops where the reference would end its text."""

from __future__ import annotations

from validate import behaviour
from validate.compressed_logits import CompressedLogits
from validate.measures.base import Comparison, RunningCandidate, SessionMeasure, Window
from validate.runtimes.base import Ability

STOPS = 12  # places at which every candidate is asked to stop


class Stops(SessionMeasure):
    """The places are looked for in the windows while the reference reads them: the first of each is enough."""

    PART = "stops"
    PLACE = 40
    NEEDS = (Ability.GENERATE,)

    def __init__(self, comparison: Comparison) -> None:
        super().__init__(comparison)
        self._ends = self.reference.identity().end_of_generation
        self._stops: dict[int, behaviour.Stop] = {}  # by window

    def on_reference_window(self, window: Window, logits: CompressedLogits) -> None:
        if len(self._stops) < STOPS and window.number not in self._stops:
            place = next((i for i in range(logits.count) if logits.best[i] in self._ends), None)
            if place is not None:
                tokens = list(window.tokens[: place + 1])
                self._stops[window.number] = behaviour.Stop(tokens, int(logits.best[place]))

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self._stops)

    def measure(self, running: RunningCandidate) -> None:
        running.result.checks.append(behaviour.stop_check(list(self._stops.values()), running.session))


MEASURE = Stops
