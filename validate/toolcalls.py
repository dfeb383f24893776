"""Whether an answer is a tool call that an application could run: one that parses, and that the tools allow.

Looked at of a tool's JSON Schema: type, required, enum, properties, items, additionalProperties. Not looked at: $ref,
anyOf and its like, patterns, formats, lengths and ranges; what only they forbid counts as valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from validate.json_types import Message

ANSWER_TOKENS = 192  # a call with a sentence before it; what is longer has gone astray
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)  # the end tag may be the token that was cut off
_OPENING = re.compile(r"\[\s*\{|\{")
_ARGUMENTS = ("arguments", "parameters")  # parameters: as Llama 3 is taught to write
_TYPES: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class Prompt(NamedTuple):
    """A rendered conversation that asks for a tool call, and the tools it may be of."""

    tokens: Sequence[int]
    tools: Sequence[Message] | None


@dataclass(frozen=True)
class ToolCalls:
    """Answers to prompts that ask for a tool call, and how many are one that the tools allow."""

    asked: int
    valid_reference: int
    valid: int

    def __add__(self, other: ToolCalls | None) -> ToolCalls:
        if other is None:
            return self
        return ToolCalls(
            self.asked + other.asked, self.valid_reference + other.valid_reference, self.valid + other.valid
        )

    @property
    def metrics(self) -> Mapping[str, float]:
        """tool_calls_valid and tool_call_drop; nothing where nothing was asked."""
        if not self.asked:
            return {}
        drop = (self.valid_reference - self.valid) / self.asked
        return {"tool_calls_valid": self.valid / self.asked, "tool_call_drop": drop}


def score(tools: Sequence[Sequence[Message] | None], reference: Sequence[str], candidate: Sequence[str]) -> ToolCalls:
    """The valid answers of both sides; `tools` are those of each question, None where it named none."""
    rows = list(zip(tools, reference, candidate, strict=True))
    return ToolCalls(
        asked=len(rows),
        valid_reference=sum(valid_call(ours, allowed) for allowed, ours, _ in rows),
        valid=sum(valid_call(theirs, allowed) for allowed, _, theirs in rows),
    )


def valid_call(answer: str, tools: Sequence[Message] | None = None) -> bool:
    """Whether every tool call of an answer is one that the tools allow, and there is one.

    Calls stand inside <tool_call> tags, else as the first JSON object or list of objects: {"name", "arguments"}, or
    {"name", "parameters"}. Without tools any name will do, and any object of arguments.
    """
    try:
        calls = list(_calls(answer))
    except (ValueError, RecursionError):  # no strict JSON, or nested without end
        return False
    allowed = None if tools is None else dict(map(_named, tools))
    return bool(calls) and all(_is_call(call, allowed) for call in calls)


def _calls(answer: str) -> Iterator[object]:
    """Every call of an answer, parsed; raises ValueError where one does not parse."""
    tagged = _TAGGED.findall(answer)
    for text in tagged:
        yield from _listed(_DECODER.decode(text.strip()))
    if not tagged and (start := _OPENING.search(answer)):
        yield from _listed(_DECODER.raw_decode(answer, start.start())[0])


def _listed(found: object) -> list[object]:
    return found if isinstance(found, list) else [found]


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """An object whose keys are all different: of two alike each reader takes another."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return found


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")  # Python's reader takes NaN and Infinity


_DECODER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_refuse)


def _named(tool: Message) -> tuple[object, object]:
    """The name of a tool and the schema of its arguments; its description may lie inside `function` or bare."""
    function = tool.get("function", tool)
    return function.get("name"), function.get("parameters")


def _is_call(call: object, allowed: Mapping[object, object] | None) -> bool:
    if not isinstance(call, dict):
        return False
    name, arguments = call.get("name"), next((call[key] for key in _ARGUMENTS if key in call), None)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return False
    return allowed is None or (name in allowed and _fits(arguments, allowed[name]))


# ---- a tool's JSON Schema


def _fits(value: object, schema: object) -> bool:
    """Whether a value is as the schema says; a schema that is none says nothing."""
    if not isinstance(schema, Mapping):
        return schema is not False
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if isinstance(kinds, list) and not any(_is(value, kind) for kind in kinds):
        return False
    enum = schema.get("enum")
    if isinstance(enum, list) and not any(_same(value, allowed) for allowed in enum):
        return False
    if isinstance(value, list):
        return all(_fits(item, schema.get("items")) for item in value)
    return not isinstance(value, dict) or _fits_object(value, schema)


def _fits_object(value: Mapping[str, object], schema: Mapping[str, object]) -> bool:
    properties, required = schema.get("properties"), schema.get("required")
    if isinstance(required, list) and any(key not in value for key in required):
        return False
    known = properties if isinstance(properties, dict) else {}
    return all(_fits(inner, known.get(key, schema.get("additionalProperties"))) for key, inner in value.items())


def _is(value: object, kind: str) -> bool:
    """Whether a value is of one of JSON Schema's types; of one that it does not have everything is."""
    if kind == "integer":
        return _is(value, "number") and (
            isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        )  # 3.0 is one: JSON Schema 6.3
    if isinstance(value, bool):
        return kind == "boolean" or kind not in _TYPES
    return isinstance(value, _TYPES.get(kind, object))


def _same(value: object, allowed: object) -> bool:
    return isinstance(value, bool) == isinstance(allowed, bool) and bool(value == allowed)
