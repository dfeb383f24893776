"""Whether tokens fed one at a time give what they give when read at once: the key-value cache, its mask, positions."""

from __future__ import annotations

from validate import drift
from validate.errors import Unsupported
from validate.measures.base import RunningCandidate, SessionMeasure, not_asked
from validate.runtimes.base import Ability

METRICS = ("decode_max_abs", "decode_kl")
DECODE_TOKENS = 32  # fed one at a time


class Cache(SessionMeasure):
    """A candidate against itself. One that cannot be fed is not measured: a limit on it says so."""

    PART = "decoding"
    PLACE = 5
    NEEDS = (Ability.DECODE,)

    def without(self, running: RunningCandidate, ability: Ability) -> None:
        """Nothing was found; of a runtime that is not asked, no usual limit misses it."""
        if not_asked(running.candidate, ability):
            running.result.left_out += METRICS

    def measure(self, running: RunningCandidate) -> None:
        session, metrics = running.session, running.result.metrics
        tokens = self.questions.windows[0][:DECODE_TOKENS]
        try:
            fed = session.decode_logits(tokens)
        except Unsupported:
            return
        at_once = session.logits(tokens)
        metrics["decode_max_abs"] = drift.largest_difference(at_once, fed)
        metrics["decode_kl"] = float(drift.kl(at_once, fed).mean())


MEASURE = Cache
