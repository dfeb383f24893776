"""A chat template in Jinja -> one in Go's text/template for Ollama, where both are proven to say the same.

Most templates are a frame around each message: what stands before and after a system's, a user's and an assistant's.
The frame is found by asking the template, a Go template is written of it, and what that gives is compared on the
conversations that validation uses. Templates that do more (tools, thoughts that are left out of history, text that is
trimmed) give something else on one of them, and are not translated: Ollama then goes by the GGUF file's own.

Ollama hands a template the messages with neighbours of one role made into one (template/template.go, collate), so
conversations with such neighbours say nothing here.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from convert.json_types import JsonObject
from validate.confined import Confined
from validate.samples import CONVERSATIONS, Conversation

if TYPE_CHECKING:
    from jinja2 import Template

SYSTEM, USER, ANSWER, AGAIN, TOOL = (f"\ue0f1{word}\ue0f2" for word in ("sys", "one", "two", "three", "tool"))
Render = Callable[[Sequence[JsonObject], bool, Sequence[JsonObject] | None], str]


@dataclass(frozen=True)
class Frame:
    """What a template puts around messages; `start` is said before all where no system message is given."""

    around: Mapping[str, tuple[str, str]]  # role -> before, after
    start: str
    start_with_system: str
    answer: str  # what the model is to go on after

    def render(self, messages: Sequence[JsonObject]) -> str:
        """What the Go template gives, for messages that end with no assistant's."""
        system = any(message["role"] == "system" for message in messages)
        parts = [self.start_with_system if system else self.start]
        for message in messages:
            before, after = self.around.get(message["role"], ("", ""))
            parts += [before, message["content"], after] if message["role"] in self.around else []
        return "".join([*parts, self.answer])


def translated(template: str, special: Mapping[str, str], *, adds_bos: bool) -> str | None:
    """The Go template, None where there is none that says the same.

    `special` are bos_token and the like as texts; `adds_bos`: the runtime puts the first token before all itself.
    """
    render = renderer(template, special)
    try:
        frame = _frame(render, special.get("bos_token", ""))
    except Exception:  # whatever a stranger's template raises at a question: then it is left as it is
        return None
    if frame is None or not _proven(frame, render):
        return None
    bos = special.get("bos_token", "")
    if adds_bos and bos:
        if not (frame.start.startswith(bos) and frame.start_with_system.startswith(bos)):
            return None
        starts = frame.start.removeprefix(bos), frame.start_with_system.removeprefix(bos)
        frame = Frame(frame.around, *starts, frame.answer)
    return _go(frame)


def renderer(template: str, special: Mapping[str, str]) -> Render:
    """The template as transformers renders it: sandboxed, blocks trimmed; in a process that may take only so much."""
    confined = Confined(_Template(template, special), "the chat template")

    def render(messages: Sequence[JsonObject], prompt: bool, tools: Sequence[JsonObject] | None = None) -> str:
        return confined.ask(_Template.render, list(messages), prompt, tools)

    return render


class _Template:
    """A template that is compiled when it is first rendered."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        self._source, self._special = source, dict(special)

    def render(self, messages: list[JsonObject], prompt: bool, tools: Sequence[JsonObject] | None) -> str:
        words = {"messages": messages, "add_generation_prompt": prompt, "tools": tools, **self._special}
        return self._compiled.render(**words)

    @functools.cached_property
    def _compiled(self) -> Template:
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = _refuse
        return environment.from_string(self._source)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _say(role: str, text: str) -> JsonObject:
    return {"role": role, "content": text}


def _frame(render: Render, bos: str) -> Frame | None:
    """By what the template makes of a few short conversations; None where their parts do not fit together."""
    talk = [_say("user", USER), _say("assistant", ANSWER), _say("user", AGAIN)]
    with_system = [_say("system", SYSTEM), *talk]
    asked, plain = render(talk, True, None), render(talk, False, None)
    if not asked.startswith(plain):
        return None
    head, between, then, end = _split(plain, (USER, ANSWER, AGAIN))
    after_user = end
    if not between.startswith(after_user):
        return None
    before_answer = between.removeprefix(after_user)
    finished = render(talk[:2], False, None)
    after_answer = finished.partition(ANSWER)[2]
    if not then.startswith(after_answer):
        return None
    before_user = then.removeprefix(after_answer)
    if not head.endswith(before_user):
        return None
    start = head.removesuffix(before_user)
    around = {"user": (before_user, after_user), "assistant": (before_answer, after_answer)}
    if (tool := _tool(render, talk, around)) is not None:
        around["tool"] = tool
    system = _system(render(with_system, False, None), before_user, bos if start.startswith(bos) else "")
    if system is None:
        return Frame(around, start, start, asked.removeprefix(plain))
    begin, before, after = system
    return Frame({"system": (before, after), **around}, start, begin, asked.removeprefix(plain))


def _tool(render: Render, talk: Sequence[JsonObject], around: Mapping[str, tuple[str, str]]) -> tuple[str, str] | None:
    """What stands around what a tool answered; None where the template knows no such messages."""
    try:
        text = render([*talk[:2], _say("tool", TOOL), talk[2]], False, None)
        _, _, before, after, _ = _split(text, (USER, ANSWER, TOOL, AGAIN))
    except Exception:  # as it refuses a role
        return None
    return before.removeprefix(around["assistant"][1]), after.removesuffix(around["user"][0])


def _system(text: str, before_user: str, bos: str) -> tuple[str, str, str] | None:
    """What is said before all, before a system message and after it; None where the template takes none."""
    if SYSTEM not in text or not text.startswith(bos):
        return None
    text = text.removeprefix(bos)
    before, after, *_ = _split(text, (SYSTEM, USER))
    if not after.endswith(before_user):
        return None
    return bos, before, after.removesuffix(before_user)


def _split(text: str, marks: Sequence[str]) -> list[str]:
    """The texts around the marks, each of which has to be there once and in this order. Raises ValueError."""
    found = []
    for mark in marks:
        if text.count(mark) != 1:
            raise ValueError("a message is not said once")
        before, _, text = text.partition(mark)
        found.append(before)
    return [*found, text]


def asked() -> list[Conversation]:
    """The conversations that a translation is held against."""
    return [
        talk
        for talk in CONVERSATIONS
        if talk.generation_prompt
        and all(isinstance(message.get("content"), str) for message in talk.messages)  # Ollama knows no parts
        and talk.messages[-1]["role"] != "assistant"
        and not any(one["role"] == two["role"] != "tool" for one, two in pairwise(talk.messages))
    ]


def _proven(frame: Frame, render: Render) -> bool:
    """Whether both say the same of every conversation that the template itself does not refuse; of four at least."""
    equal = 0
    for talk in asked():
        try:
            wanted = render(talk.messages, True, talk.tools)
        except Exception:  # as it refuses roles that it does not know
            continue
        if frame.render(talk.messages) != wanted:
            return False
        equal += 1
    return equal >= 4


def _go(frame: Frame) -> str:
    """The Go template: no action is trimmed, so that each literal stands as it is."""
    start = _literal(frame.start)
    if frame.start != frame.start_with_system:
        start = f"{{{{ if not .System }}}}{start}{{{{ else }}}}{_literal(frame.start_with_system)}{{{{ end }}}}"
    branches: list[str] = []
    for role, (before, after) in frame.around.items():
        closing = _literal(after)
        if role == "assistant":  # of an answer that is begun, the model writes the end
            closing = f"{{{{ if not $last }}}}{closing}{{{{ end }}}}"
        word = "else if" if branches else "if"
        branches.append(f'{{{{ {word} eq .Role "{role}" }}}}{_literal(before)}{{{{ .Content }}}}{closing}')
    answer = f'{{{{ if and (ne .Role "assistant") $last }}}}{_literal(frame.answer)}{{{{ end }}}}'
    last = "{{ $last := eq (len (slice $.Messages $i)) 1 }}"
    return f"{start}{{{{ range $i, $_ := .Messages }}}}{last}{''.join(branches)}{{{{ end }}}}{answer}{{{{ end }}}}"


def _literal(text: str) -> str:
    """Text as it stands in a Go template; what would begin an action is an action that says it."""
    return text.replace("{{", '{{ "{{" }}')
