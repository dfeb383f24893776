"""What has to be the same and not merely close: token ids, templates, special tokens."""

from __future__ import annotations

from validate.contract import check_contract
from validate.measures.base import EVERY_MODEL, RunningCandidate, SessionMeasure


class Contract(SessionMeasure):
    """Made also of a candidate that computes nothing: its tokenizer and templates say what else is wrong."""

    PART = "contract"
    PLACE = 10
    OF = EVERY_MODEL
    DESPITE_FAILURES = True

    def measure(self, running: RunningCandidate) -> None:
        running.result.checks = check_contract(self.reference, running.session)


MEASURE = Contract
