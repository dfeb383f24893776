"""How fast a candidate reads and writes, and the memory its process takes."""

from __future__ import annotations

from validate.measures.base import RunningCandidate, SessionMeasure


class Speed(SessionMeasure):
    """Asked when the text was read and tokens were fed one at a time, whose times count; before all that takes more
    memory than these two."""

    PART = "speed"
    PLACE = 6
    DESPITE_FAILURES = True

    def measure(self, running: RunningCandidate) -> None:
        running.result.speed = running.session.speed(max(self.questions.windows, key=len))


MEASURE = Speed
