"""A conversation in a model's own template, or as near to it as the template allows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from convert.json_types import JsonDict, JsonObject
from validate.errors import Endless

if TYPE_CHECKING:
    from validate.runtimes.base import ReferenceSession

Talk = tuple[list[JsonDict], list[JsonDict]]  # messages, tools


def rendered(session: ReferenceSession, messages: Sequence[JsonDict], tools: Sequence[JsonDict]) -> tuple[str, bool]:
    """The text that holds all the words of the conversation, and whether special tokens in it are special.

    By the model's template where that takes it. Templates that know no tools get calls and results as JSON, those that
    want user and assistant in turn get the system's words in the user's; without a template it is a plain transcript.
    """
    talk = (list(messages), list(tools))
    if session.identity().templates:
        for form in _forms(talk):
            try:
                text = session.render(form[0], form[1] or None, False)
            except Endless:
                raise
            except Exception:
                continue
            if all(word in text for word in _words(talk)):
                return text, True
    return _transcript(_told(talk)[0]), False


def _forms(talk: Talk) -> Iterator[Talk]:
    yield talk
    yield _told(talk)
    yield _in_turn(_told(talk))


def _words(talk: Talk) -> Iterator[str]:
    """What has to be in the text: the names of what is called, and of what could be."""
    for message in talk[0]:
        yield from (call["function"]["name"] for call in message.get("tool_calls", ()))
    yield from (tool["function"]["name"] for tool in talk[1])


def _told(talk: Talk) -> Talk:
    """Without tools: what they are is told by the system, calls by the assistant, results by the user."""
    messages, tools = talk
    told = [_as_text(message) for message in messages]
    if not tools:
        return told, []
    schemas = (json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    about = "\n".join(["You have these functions:", *schemas])
    if told and told[0]["role"] == "system":
        return [{"role": "system", "content": f"{told[0]['content']}\n\n{about}"}, *told[1:]], []
    return [{"role": "system", "content": about}, *told], []


def _as_text(message: JsonObject) -> JsonDict:
    content, role = str(message.get("content") or ""), str(message["role"])
    if role == "tool":
        return {"role": "user", "content": f"Result of {message.get('name', 'the call')}: {content}"}
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message.get("tool_calls", ())]
    return {"role": role, "content": "\n".join(filter(None, [content, *calls]))}


def _in_turn(talk: Talk) -> Talk:
    """User first, then by turns: neighbours of one role become one message."""
    merged: list[JsonDict] = []
    for message in talk[0]:
        role = "assistant" if message["role"] == "assistant" else "user"
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += f"\n\n{message['content']}"
        else:
            merged.append({"role": role, "content": message["content"]})
    return merged, []


def _transcript(messages: Sequence[JsonObject]) -> str:
    return "".join(f"{message['role'].capitalize()}: {message['content']}\n\n" for message in messages)
