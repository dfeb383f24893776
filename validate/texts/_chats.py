"""JSON lines of conversations -> Conversation, or the line that is none.

A line is {"messages": [{"role": …, "content": …}, …], "tools": […]}, as the hub's chat datasets have them; other words
of a line (an id, a source) are its own business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from validate.json_types import JsonObject
from validate.samples import Conversation

_SHAPE = 'one {"messages": [{"role": "user", "content": "…"}, …], "tools": […]} a line'


def conversations(text: str, where: str) -> list[Conversation]:
    """Every conversation of a JSON-lines file; raises ValueError with `where:line` for a line that is none."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON may hold U+2028 as it is
        if line.strip():
            try:
                found.append(_conversation(line, f"line {number}"))
            except ValueError as error:
                raise ValueError(f"{where}:{number}: {error}; wanted {_SHAPE}") from error
    if not found:
        raise ValueError(f"{where} holds no conversation; wanted {_SHAPE}")
    return found


def _conversation(line: str, name: str) -> Conversation:
    try:
        raw = json.loads(line, parse_constant=_no_number)
        json.dumps(raw, ensure_ascii=False).encode()  # half of a surrogate pair is no text: tokenizers panic at it
    except RecursionError as error:
        raise ValueError("JSON nested too deep") from error
    if not isinstance(raw, dict):
        raise ValueError(f"{_kind(raw)}, not an object")
    if "messages" not in raw:
        hint = "; what others call `conversations` is not read" if "conversations" in raw else ""
        raise ValueError(f"no `messages`, only {', '.join(map(repr, raw)) or 'nothing'}{hint}")
    messages = _list_of_objects(raw["messages"], "messages")
    if not messages:
        raise ValueError("`messages` is empty")
    tools = raw.get("tools")
    return Conversation(
        name,
        [_message(message, f"messages[{i}]") for i, message in enumerate(messages)],
        (_list_of_objects(tools, "tools") or None) if tools is not None else None,
        generation_prompt=False,
    )


def _message(raw: JsonObject, where: str) -> JsonObject:
    if not isinstance(raw.get("role"), str) or not raw["role"]:
        raise ValueError(f"{where} has no `role`")
    message = {**raw, "content": _content(raw.get("content"), where)}
    calls = raw.get("tool_calls")
    if calls is None:
        message.pop("tool_calls", None)  # what a dataset of one schema writes where there is none
    else:
        named = enumerate(_list_of_objects(calls, f"{where}.tool_calls"))
        message["tool_calls"] = [_call(call, f"{where}.tool_calls[{i}]") for i, call in named]
    return message


def _content(content: object, where: str) -> str | Sequence[JsonObject]:
    """Text, or parts of text; nothing becomes empty text, which is what templates can add to other text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = _list_of_objects(content, f"{where}.content")
    for part in parts:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"{where}.content has a part that is no text: images go under `images` or `clicks`")
    return parts


def _call(raw: JsonObject, where: str) -> JsonObject:
    """A tool call with its arguments as an object, which is what templates expect; datasets also keep them as text."""
    function = raw.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ValueError(f"{where} has no function with a name")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: `arguments` is text that is no JSON ({error})") from error
    if not isinstance(arguments, dict):
        raise ValueError(f"{where}: `arguments` is {_kind(arguments)}, not an object")
    return {**raw, "function": {**function, "arguments": arguments}}


def _list_of_objects(value: object, where: str) -> Sequence[JsonObject]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {_kind(value)}, not a list")
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise ValueError(f"{where}[{i}] is {_kind(item)}, not an object")
    return value


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
