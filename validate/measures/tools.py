"""Whether a candidate calls tools as often as the reference where a conversation asks for it.

Calls that answer a screenshot are counted where the clicks are made.
"""

from __future__ import annotations

from functools import cached_property

from validate import toolcalls
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import Ability


class Tools(SessionMeasure):
    """Asked where there are conversations with tools, and a template that shows them."""

    PART = "tool calls"
    PLACE = 50
    NEEDS = (Ability.GENERATE,)

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self.questions.tool_prompts)

    def measure(self, running: RunningCandidate) -> None:
        prompts = self.questions.tool_prompts
        tools, wanted = [prompt.tools for prompt in prompts], self._reference_answers
        running.result.count_calls(toolcalls.score(tools, wanted, toolcalls.answers(running.session, prompts)))

    @cached_property
    def _reference_answers(self) -> list[str]:
        return toolcalls.answers(self.reference, self.questions.tool_prompts)


MEASURE = Tools
