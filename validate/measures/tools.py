"""Whether a candidate calls tools as often as the reference where a conversation asks for it.

Calls that answer a screenshot are counted where the clicks are made.
"""

from __future__ import annotations

from collections.abc import Sequence

from validate import toolcalls
from validate.measurement import Candidate, Measurement
from validate.measures._drafted import reference_texts
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import Ability


class Tools(SessionMeasure):
    """Asked where there are conversations with tools, and a template that shows them."""

    PART = "tool calls"
    PLACE = 50
    NEEDS = (Ability.GENERATE,)
    WRITTEN = "tool calls"

    def is_asked(self, running: RunningCandidate) -> bool:
        return bool(self.questions.tool_prompts)

    def measure(self, running: RunningCandidate) -> None:
        session, result = running.session, running.result
        self.begin(running, len(self.questions.tool_prompts), "answer")
        written = list[list[int]]()
        for prompt in self.questions.tool_prompts:
            written.append(session.generate(prompt.tokens, toolcalls.ANSWER_TOKENS))
            self.progress.advance(1)
        result.written[self.WRITTEN] = written
        result.answers[self.WRITTEN] = [session.detokenize(tokens) for tokens in written]

    def settle(self, wrote: Sequence[tuple[Candidate, Measurement]]) -> None:
        prompts, reference = self.questions.tool_prompts, self.reference
        texts = reference_texts(
            self,
            lambda rows, drafts: reference.choices([prompts[i].tokens for i in rows], drafts),
            wrote,
            toolcalls.ANSWER_TOKENS,
        )
        tools, wanted = [prompt.tools for prompt in prompts], [reference.detokenize(text) for text in texts]
        for _, result in wrote:
            result.count_calls(toolcalls.score(tools, wanted, result.answers[self.WRITTEN]))


MEASURE = Tools
