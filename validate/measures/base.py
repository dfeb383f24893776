"""What a measure is: when it is made, what it needs, and what it writes into a candidate's Measurement.

SessionMeasure    of an open candidate, one after the other
WindowMeasure     of the logits of every window, one after the other
FileMeasure       of a candidate's files; nothing runs
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from validate.compressed_logits import CompressedLogits
from validate.embeddings import EMBEDDINGS, SCORES, TEXT
from validate.errors import Unsupported
from validate.measurement import Candidate, Measurement, Progress, Questions
from validate.reference import Reference
from validate.runtimes.base import Ability, Session

EVERY_MODEL = (TEXT, EMBEDDINGS, SCORES)


@dataclass(frozen=True)
class Comparison:
    """What every candidate is compared with and asked, and where progress is reported."""

    reference: Reference
    questions: Questions
    progress: Progress
    candidates: Sequence[Candidate] = ()


@dataclass(eq=False)
class RunningCandidate:
    """A candidate that runs, and what is known of it so far."""

    candidate: Candidate
    session: Session
    result: Measurement
    done: set[type[Measure]] = field(default_factory=set)  # the measures that came to their end
    wants_more: bool = False  # of the text: what it has read so far does not decide


@dataclass(frozen=True)
class Window:
    """One window of text."""

    number: int  # among all windows
    set: str  # the input set it is of
    tokens: Sequence[int]


class Measure(ABC):
    """One thing to measure. An object lives for one comparison, and keeps the reference's answers for all candidates.

    What goes wrong in it (RuntimeFailure, NotComparable) becomes a failure of the candidate, and the next one is made.
    """

    PART: ClassVar[str]
    """What its failures begin with: "decoding: the candidate's logits are not finite"."""
    PLACE: ClassVar[int] = 100
    """Among the measures of its kind; they go by rising place."""
    OF: ClassVar[tuple[str, ...]] = (TEXT,)
    """What the models give that it is made of: TEXT, or EMBEDDINGS and SCORES, of encoders."""

    def __init__(self, comparison: Comparison) -> None:
        self.reference, self.questions = comparison.reference, comparison.questions
        self.progress, self.candidates = comparison.progress, comparison.candidates


class SessionMeasure(Measure):
    """A measure of what a candidate's session answers."""

    NEEDS: ClassVar[tuple[Ability, ...]] = ()
    """What a session has to be able to do; `without` says what becomes of one that cannot."""
    AFTER: ClassVar[tuple[type[Measure], ...]] = ()
    """Measures that must have come to their end for this candidate."""
    DESPITE_FAILURES: ClassVar[bool] = False
    """Whether it says something new of a candidate with which something is wrong already."""
    WRITTEN: ClassVar[str] = ""
    """The name in `Measurement.written` of what `settle` judges; empty where nothing is written."""

    def is_asked(self, running: RunningCandidate) -> bool:
        """Whether reference, questions and candidate give anything to measure; it may write down why not."""
        return True

    def without(self, running: RunningCandidate, ability: Ability) -> None:
        """What becomes of a candidate whose session has not what this needs: a failure, if nothing else is said."""
        if not_asked(running.candidate, ability):
            return
        raise Unsupported(f"this runtime has no {ability}")

    def begin(self, running: RunningCandidate, total: int, unit: str) -> None:
        """Progress starts for what takes a while: `total` pieces of this measure, of this candidate."""
        self.progress.start(f"{running.candidate.label}: {self.PART}", total, unit)

    def on_reference_window(self, window: Window, logits: CompressedLogits) -> None:
        """The reference has read a window: for what looks for something in its texts."""

    def prepare(self) -> None:
        """Before any candidate is opened: ask the reference what its weights have to answer."""

    @abstractmethod
    def measure(self, running: RunningCandidate) -> None:
        """Write into `running.result` what there is to say.

        The reference's weights may be gone: of it only what `prepare` asked, its tokenizer and its templates are there.
        """

    def settle(self, wrote: Sequence[tuple[Candidate, Measurement]]) -> None:
        """All candidates are closed: judge what they wrote, `result.written[WRITTEN]`."""


class WindowMeasure(SessionMeasure):
    """A measure of the logits of every window, of which one is there at a time; `measure` follows the last."""

    @abstractmethod
    def compare(
        self, running: RunningCandidate, window: Window, reference: CompressedLogits, logits_tv: np.ndarray
    ) -> None:
        """Take in a candidate's logits (token, vocab) of a window."""

    def has_enough(self, running: RunningCandidate) -> bool:
        """Whether the windows so far say all there is to say; asked after each step of reading but the last."""
        return True


class FileMeasure(Measure):
    """A measure of a candidate's files, also of one that could not be run."""

    OF = EVERY_MODEL

    @abstractmethod
    def measure(self, candidate: Candidate, result: Measurement) -> None:
        """Write into `result` what there is to say."""


def not_asked(candidate: Candidate, ability: Ability) -> str:
    """Why a candidate's runtime is not asked for an ability, whatever the file; empty where it is."""
    return candidate.runtime.NOT_ASKED.get(ability, "") if candidate.runtime is not None else ""
