"""How fast a candidate reads and writes, and the memory its process takes."""

from __future__ import annotations

from validate.measures.base import RunningCandidate, SessionMeasure


class Speed(SessionMeasure):
    """Asked first: the peak of memory is then that of reading and writing."""

    PART = "speed"
    FRESH = True
    PLACE = 10
    DESPITE_FAILURES = True

    def measure(self, running: RunningCandidate) -> None:
        running.result.speed = running.session.speed(max(self.questions.windows, key=len))


MEASURE = Speed
