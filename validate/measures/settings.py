"""Whether a candidate would be used as its source is: sampling, lengths, positions, images."""

from __future__ import annotations

from validate.errors import NotOnThisMachine, Unsupported
from validate.measures.base import EVERY_MODEL, RunningCandidate, SessionMeasure
from validate.settings import compare_settings


class Settings(SessionMeasure):
    """Made also of a candidate that computes nothing; of a runtime that states no settings there is nothing to say."""

    PART = "settings"
    PLACE = 12
    OF = EVERY_MODEL
    DESPITE_FAILURES = True

    def measure(self, running: RunningCandidate) -> None:
        try:
            source = self.reference.settings().values
            output = running.session.settings()
        except NotOnThisMachine:
            raise
        except Unsupported:
            return
        check = compare_settings(source, output)
        if check.total or check.note:
            running.result.checks.append(check)


MEASURE = Settings
