"""What the reference would write, found out with what candidates wrote as drafts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from validate import drafts
from validate.measurement import Candidate, Measurement
from validate.measures.base import SessionMeasure


def reference_texts(
    measure: SessionMeasure, choose: drafts.Choose, wrote: Sequence[tuple[Candidate, Measurement]], count: int
) -> list[list[int]]:
    """What the reference writes after each prompt of a measure; whoever is nearest to it is read first."""
    nearest = sorted((result for _, result in wrote), key=lambda result: result.metrics.get("kl_mean", math.inf))
    by_prompt = list(map(list, zip(*(result.written[measure.WRITTEN] for result in nearest), strict=True)))
    measure.progress.start(f"the source reads what was written: {measure.WRITTEN}", count * len(by_prompt), "tok")
    ends = measure.reference.identity().end_of_generation
    return drafts.texts(choose, by_prompt, count, ends, measure.progress.advance)
