"""What a candidate's files state of the model, against the source; nothing runs."""

from __future__ import annotations

from validate.measurement import Candidate, Measurement
from validate.measures.base import FileMeasure


class Stated(FileMeasure):
    """What files state is known to their format, which gives `Candidate.file_checks`."""

    PART = "hyper-parameters"
    PLACE = 20

    def measure(self, candidate: Candidate, result: Measurement) -> None:
        if candidate.file_checks is not None:
            checks = [check for check in candidate.file_checks() if check.total]
            result.checks = [*result.checks, *checks]
            result.metrics |= {check.metric: check.score for check in checks if check.metric}


MEASURE = Stated
