"""Where a candidate clicks on held-out screenshots, and whether its answers are tool calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np

from validate import statistics, toolcalls, vision
from validate.logits import NotComparable
from validate.measurement import Candidate, Measurement
from validate.measures._drafted import reference_texts
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.measures.images import Images
from validate.runtimes.base import Ability

REFERENCE_BATCH = 20  # screenshots the reference answers at once


class Clicks(SessionMeasure):
    """Asked where images were compared and the recipe names clicks."""

    PART = "vision"
    PLACE = 70
    NEEDS = (Ability.IMAGES,)
    AFTER = (Images,)
    DESPITE_FAILURES = True
    WRITTEN = "clicks"

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self.questions.clicks)

    def measure(self, running: RunningCandidate) -> None:
        tasks, candidate, result = self.questions.clicks, running.candidate, running.result
        # One a question, as a user would ask, but where that takes minutes for the same answers.
        batch = 1 if candidate.runtime is None else candidate.runtime.IMAGE_BATCH
        written = list[list[int]]()
        self.progress.start(f"{candidate.label}: clicks", len(tasks), "click")
        for here in _batches(len(tasks), batch):
            images = [_pixels(task) for task in tasks[here]]
            written += running.session.image_generate(self._prompts[here], images, vision.ANSWER_TOKENS)
            self.progress.advance(len(images))
        result.written[self.WRITTEN] = written
        result.answers[self.WRITTEN] = [running.session.detokenize(ids) for ids in written]

    def settle(self, wrote: Sequence[tuple[Candidate, Measurement]]) -> None:
        tasks = self.questions.clicks
        texts = reference_texts(self, self._choose, wrote, vision.ANSWER_TOKENS)
        wanted = [vision.click(self.reference.detokenize(text)) for text in texts]
        tools = [task.tools for task in tasks]
        for _, result in wrote:
            got = [vision.click(answer) for answer in result.answers[self.WRITTEN]]
            result.clicks = score = vision.score_clicks(tasks, wanted, got)
            hits, reference_hits = (np.asarray(h, float) for h in (score.hits, score.hits_reference))
            drops = statistics.shares(reference_hits - hits, lowest=-1.0)
            result.add(vision.click_metrics(score), {"click_rate": statistics.shares(hits), "click_drop": drops})
            result.count_calls(toolcalls.score(tools, [c.answer for c in wanted], [c.answer for c in got]))

    def _choose(self, rows: Sequence[int], drafts: Sequence[Sequence[int]]) -> list[list[int]]:
        """What the reference chooses behind drafts, some screenshots at once."""
        found = list[list[int]]()
        for here in _batches(len(rows), REFERENCE_BATCH):
            prompts = [self._prompts[i] for i in rows[here]]
            images = [_pixels(self.questions.clicks[i]) for i in rows[here]]
            found += self.reference.image_choices(prompts, images, drafts[here])
        return found

    @cached_property
    def _prompts(self) -> list[str]:
        """Rendered, one a task."""
        return [self.reference.image_prompt(task.instruction, task.tools) for task in self.questions.clicks]


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, start + size)


def _pixels(task: vision.ClickTask) -> np.ndarray:
    try:
        return vision.read_image(task.image)
    except ValueError as error:
        raise NotComparable(str(error)) from error


MEASURE = Clicks
