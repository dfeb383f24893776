"""Where a candidate clicks on held-out screenshots, and whether its answers are tool calls."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from validate import statistics, toolcalls, vision
from validate.logits import NotComparable
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.measures.images import Images
from validate.runtimes.base import Ability, Session

REFERENCE_BATCH = 20  # screenshots the reference answers at once


class Clicks(SessionMeasure):
    """Asked where images were compared and the recipe names clicks."""

    PART = "vision"
    PLACE = 70
    NEEDS = (Ability.IMAGES,)
    AFTER = (Images,)
    DESPITE_FAILURES = True

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self.questions.clicks)

    def measure(self, running: RunningCandidate) -> None:
        tasks, candidate, result = self.questions.clicks, running.candidate, running.result
        prompts, wanted = self._reference_answers
        # One a question, as a user would ask, but where that takes minutes for the same answers.
        batch = 1 if candidate.runtime is None else candidate.runtime.IMAGE_BATCH
        got = self._click(f"clicks of {candidate.name or candidate.path.name}", running.session, prompts, batch)
        result.clicks = score = vision.score_clicks(tasks, wanted, got)
        hits, reference_hits = (np.asarray(h, float) for h in (score.hits, score.hits_reference))
        drops = statistics.shares(reference_hits - hits, lowest=-1.0)
        result.add(vision.click_metrics(score), {"click_rate": statistics.shares(hits), "click_drop": drops})
        tools = [task.tools for task in tasks]
        result.count_calls(toolcalls.score(tools, [c.answer for c in wanted], [c.answer for c in got]))

    @cached_property
    def _reference_answers(self) -> tuple[list[str], list[vision.Click]]:
        """Rendered prompts and the reference's answers."""
        prompts = [self.reference.image_prompt(task.instruction, task.tools) for task in self.questions.clicks]
        return prompts, self._click("clicks of the source", self.reference, prompts, REFERENCE_BATCH)

    def _click(self, what: str, session: Session, prompts: Sequence[str], batch: int) -> list[vision.Click]:
        tasks, answers = self.questions.clicks, list[vision.Click]()
        self.progress.start(what, len(tasks), "click")
        for i in range(0, len(tasks), batch):
            images = [_pixels(task) for task in tasks[i : i + batch]]
            answers += vision.do_clicks(session, prompts[i : i + batch], images)
            self.progress.advance(len(images))
        return answers


def _pixels(task: vision.ClickTask) -> np.ndarray:
    try:
        return vision.read_image(task.image)
    except ValueError as error:
        raise NotComparable(str(error)) from error


MEASURE = Clicks
