"""How far a candidate's embeddings, or a classifier's scores, are from the reference's, over all texts."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from validate import embeddings, statistics
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import Ability

SHOWN = 160  # characters of the text that changed most


class Embeddings(SessionMeasure):
    """Instead of what is measured of the next token, which an encoder does not predict."""

    PART = "embeddings"
    PLACE = 20
    OF = (embeddings.EMBEDDINGS, embeddings.SCORES)
    NEEDS = (Ability.EMBED,)

    def prepare(self) -> None:
        """What the reference makes of every text."""
        _ = self._reference

    def measure(self, running: RunningCandidate) -> None:
        self.begin(running, len(self.questions.windows), "text")
        result, gives = running.result, self.reference.identity().gives
        rows = []
        for tokens in self.questions.windows:
            rows.append(running.session.embed(tokens))
            self.progress.advance(1)
        found = np.stack(rows)
        result.embeddings = embeddings.compare(gives, self._reference, found, self._texts)
        result.metrics |= result.embeddings.metrics
        if gives == embeddings.EMBEDDINGS:
            near = embeddings.cosines(self._reference, found)
            _, draws = statistics.over_windows(near.tolist(), [1] * len(near))
            result.add({}, {"embedding_cosine_mean": draws} if len(draws) else {})

    @cached_property
    def _reference(self) -> np.ndarray:
        return np.stack([self.reference.embed(tokens) for tokens in self.questions.windows])

    @cached_property
    def _texts(self) -> list[str]:
        return [self.reference.detokenize(tokens)[:SHOWN] for tokens in self.questions.windows]


MEASURE = Embeddings
