"""What is a tool call that could be run, and what only looks like one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from validate.samples import TOOL
from validate.toolcalls import ToolCalls, score, valid_call

CLICK = '{"name": "computer_use", "arguments": {"action": "left_click", "coordinate": [10, 20]}}'
BARE = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}


def tagged(*calls: str) -> str:
    return "".join(f"<tool_call>\n{call}\n</tool_call>\n" for call in calls)


@pytest.mark.parametrize(
    "answer",
    [
        tagged(CLICK),
        f"I click the button.\n{tagged(CLICK)}",
        tagged(CLICK, CLICK),
        f"<tool_call>\n{CLICK}\n",  # the end tag was the token that ended the text
        CLICK,
        f"Sure: {CLICK} and that is all {{",
        f"[{CLICK}, {CLICK}]",
        f"[TOOL_CALLS] [ {CLICK}]",
        CLICK.replace("arguments", "parameters"),
        '{"name": "computer_use", "parameters": {"action": "wait", "seconds": 1.5}}',
        '{"name": "computer_use", "arguments": {"action": "wait", "seconds": 2, "why": "tools allow it"}}',
    ],
)
def test_a_call_that_could_be_run(answer: str) -> None:
    assert valid_call(answer, [TOOL])
    assert valid_call(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I would click at [10, 20].",
        "<tool_call>\n</tool_call>",
        tagged(CLICK[:-1]),
        tagged(CLICK + "}"),
        tagged(CLICK + " done"),
        tagged(CLICK, "{}"),
        f"<tool_call>{CLICK[:-1]}</tool_call> {CLICK}",
        CLICK[:-1],
        '{"call": ' + CLICK,  # what is inside of a broken object does not count
        f"[{CLICK}, 7]",
        "[" * 100_000,
        '{"a": ' * 100_000,
        CLICK.replace("10", "NaN"),
        CLICK.replace("10", "1" * 5000),
        CLICK.replace('"action"', '"coordinate": [1, 2], "action"'),
        CLICK.replace('"computer_use"', "null"),
        CLICK.replace('"computer_use"', '""'),
        CLICK.replace("arguments", "args"),
        '{"name": "computer_use", "arguments": "{}"}',
        '{"name": "computer_use", "arguments": null}',
        CLICK.replace("'", '"').replace('"', "'"),
    ],
)
def test_what_is_no_call_whatever_the_tools(answer: str) -> None:
    assert not valid_call(answer)


@pytest.mark.parametrize(
    "arguments",
    [
        {},  # action is required
        {"action": "double_click"},
        {"action": None},
        {"action": "wait", "seconds": "2"},
        {"action": "wait", "seconds": True},
        {"action": "left_click", "coordinate": [10, 20.5]},
        {"action": "left_click", "coordinate": [10, False]},
        {"action": "left_click", "coordinate": "10, 20"},
        {"action": "left_click", "coordinate": {"x": 1}},
    ],
)
def test_arguments_that_the_tool_does_not_take(arguments: dict[str, Any]) -> None:
    answer = tagged(json.dumps({"name": "computer_use", "arguments": arguments}))
    assert valid_call(answer)
    assert not valid_call(answer, [TOOL])


def test_the_tool_has_to_be_one_of_those_there_are() -> None:
    assert not valid_call(CLICK.replace("computer_use", "browser"), [TOOL])
    assert not valid_call(CLICK, [])
    assert valid_call('{"name": "add", "arguments": {"a": 3.0}}', [TOOL, BARE])
    assert not valid_call('{"name": "add", "arguments": {"a": 3.5}}', [TOOL, BARE])
    assert not valid_call('{"name": "computer_use", "arguments": {"a": 3}}', [TOOL, BARE])


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "object", "additionalProperties": False, "properties": {"a": {}}}, {"a": [None]}, {"b": 1}),
        ({"additionalProperties": {"type": "string"}}, {"b": "x"}, {"b": 1}),
        ({"properties": {"a": {"type": ["string", "null"]}}}, {"a": None}, {"a": 1}),
        ({"properties": {"a": {"enum": [1, "x"]}}}, {"a": 1.0}, {"a": True}),
        ({"properties": {"a": {"items": {"properties": {"b": {"enum": [1]}}}}}}, {"a": [{"b": 1}]}, {"a": [{"b": 0}]}),
        ({"properties": {"a": {"type": "object", "required": ["b"]}}}, {"a": {"b": 1}}, {"a": {}}),
        ({"properties": {"a": {"type": "null"}}}, {"a": None}, {"a": False}),
        ({"properties": {"a": False}}, {"b": 1}, {"a": 1}),
        ({"properties": {"a": {"type": "tuple"}}, "required": ["a"]}, {"a": True}, {}),  # a type nobody knows
        ({"properties": {"a": {"type": "integer"}}}, {"a": 10**400}, {"a": 1.5}),
        ({"type": 7, "enum": 7, "required": 7, "properties": 7, "items": 7}, {"a": 1}, []),  # a schema that is none
        (None, {"a": 1}, []),  # a tool without a schema
    ],
)  # fmt: skip
def test_what_is_looked_at_of_a_schema(schema: Any, good: Any, bad: Any) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert valid_call(json.dumps({"name": "f", "arguments": good}), tools)
    assert not valid_call(json.dumps({"name": "f", "arguments": bad}), tools)


def test_both_sides_are_counted() -> None:
    got = score([[TOOL], None, [TOOL]], [CLICK, CLICK, CLICK], [CLICK, "no", "{}"])
    assert got == ToolCalls(asked=3, valid_reference=3, valid=1)
    assert got + None == got
    assert got + ToolCalls(1, 0, 1) == ToolCalls(4, 3, 2)
    assert got.metrics == {"tool_calls_valid": 1 / 3, "tool_call_drop": 2 / 3}
    assert score([], [], []).metrics == {}
    with pytest.raises(ValueError, match="zip"):
        score([None], [CLICK], [])
