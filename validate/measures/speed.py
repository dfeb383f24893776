"""How fast a candidate reads and writes, and the memory its process takes."""

from __future__ import annotations

from validate.measures.base import Opened, SessionMeasure


class Speed(SessionMeasure):
    """Asked first: the peak of memory is then that of reading and writing."""

    PART = "speed"
    FRESH = True
    PLACE = 10
    DESPITE_FAILURES = True

    def measure(self, opened: Opened) -> None:
        opened.result.speed = opened.session.speed(max(self.questions.windows, key=len))


MEASURE = Speed
