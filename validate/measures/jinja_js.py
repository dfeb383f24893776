"""Whether the chat template of a graph's folder is rendered in a browser as transformers renders the source's."""

from __future__ import annotations

from collections.abc import Mapping

from validate.contract import CONVERSATIONS, REFUSED, Check, Counter, compare_rendered, rendered
from validate.errors import RuntimeFailure, Unsupported
from validate.jinja_js import FORMAT, JinjaJs
from validate.measures.base import RunningCandidate, SessionMeasure
from validate.runtimes.base import ReferenceSession, Session

NAME, TITLE, METRIC = "templates_js", "chat template, rendered by transformers.js' engine", "templates_js_equal"


class TemplatesJs(SessionMeasure):
    """Asked for by name (`jinja_js` of the recipe), of graphs: it needs node."""

    PART = "templates"
    PLACE = 14
    DESPITE_FAILURES = True

    def is_asked(self, running: RunningCandidate) -> bool:
        runtime = running.candidate.runtime
        return self.questions.jinja_js is not None and runtime is not None and FORMAT in runtime.FORMATS

    def measure(self, running: RunningCandidate) -> None:
        engine = self.questions.jinja_js
        assert engine is not None
        running.result.checks.append(check_templates(self.reference, running.session, engine))


def check_templates(reference: ReferenceSession, candidate: Session, engine: JinjaJs) -> Check:
    """Every conversation, byte for byte; what the source's template refuses, this engine may refuse too."""
    theirs, counter = candidate.identity(), Counter()
    if not theirs.templates:
        return counter.check(NAME, TITLE, "", "there is no chat template to render")
    try:
        answers = engine.render(theirs.templates, CONVERSATIONS, _special_tokens(candidate))
    except Unsupported as error:
        return counter.check(NAME, TITLE, "", f"not checked: {error}")
    notes = {f"@huggingface/jinja {engine.version}": None}
    for talk, answer in zip(CONVERSATIONS, answers, strict=True):
        wanted = rendered(reference.render, talk.messages, talk.tools, talk.generation_prompt)
        got = f"{REFUSED}{answer}" if isinstance(answer, RuntimeFailure) else answer
        compare_rendered(counter, notes, talk.name, (wanted, got))
    return counter.check(NAME, TITLE, METRIC, "; ".join(notes))


def _special_tokens(session: Session) -> Mapping[str, str]:
    identity, pieces = session.identity(), session.pieces()
    ids = {"bos_token": identity.bos, "eos_token": identity.eos, "pad_token": identity.pad}
    return {name: pieces[i] for name, i in ids.items() if 0 <= i < len(pieces)}


MEASURE = TemplatesJs
