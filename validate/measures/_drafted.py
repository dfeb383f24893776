"""What the reference would write, found out with what candidates wrote as drafts."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from validate import drafts
from validate.measurement import Candidate, Measurement


def reference_texts(
    choose: drafts.Choose,
    wrote: Sequence[tuple[Candidate, Measurement]],
    part: str,
    count: int,
    ends: Collection[int],
) -> list[list[int]]:
    """What the reference writes after each prompt of `part`; whoever is nearest to it is read first."""
    nearest = sorted((result for _, result in wrote), key=lambda result: result.metrics.get("kl_mean", math.inf))
    by_prompt = zip(*(result.written[part] for result in nearest), strict=True)
    return drafts.texts(choose, list(map(list, by_prompt)), count, ends)
