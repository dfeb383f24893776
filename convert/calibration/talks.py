"""Conversations with tools: a request, calls with arguments, results, an answer, a second round."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from convert.calibration.draw import Draw
from convert.calibration.grammar import Rules, write
from convert.json_types import JsonDict, JsonObject

# What a topic's functions are called.
NAMES = {
    "travel": ("search_connections", "reserve_seat", "get_delay", "findStops", "cancel_trip", "list_fares"),
    "shop": ("find_order", "start_return", "stock", "quotePrice", "orders.update", "track-parcel", "apply_voucher"),
    "plan": ("list_events", "move_event", "create_reminder", "free_busy", "inviteGuests", "on_call"),
    "data": ("run_sql", "plot", "describe_table", "export_csv", "correlate", "top_k"),
    "screen": ("click", "type_text", "scroll", "open_url", "press_keys", "read_page", "wait", "take_screenshot"),
}
# Arguments: name -> JSON type.
FIELDS = {
    "query": "string", "date": "string", "start": "string", "person": "string", "article": "string",
    "text": "string", "origin": "string", "limit": "integer", "x": "integer", "y": "integer",
    "dry_run": "boolean", "notify": "boolean", "branch": "string", "order_id": "integer", "tags": "array",
    "latitude": "number", "url": "string", "page": "integer", "sort_by": "string", "keys": "array",
    "amount": "number", "recursive": "boolean", "when": "string", "code": "string",
}  # fmt: skip
QUERIES = (
    "SELECT week, sum(quantity) FROM sales WHERE branch = '{place}' GROUP BY week ORDER BY week",
    "SELECT c.name, round(sum(o.total), 2) AS spent FROM orders o JOIN customers c USING (customer_id) LIMIT {3-20}",
    "SELECT order_id, count(*) FROM imports WHERE day = '{2019-2025}-0{1-9}-{10-28}' GROUP BY 1 "
    "HAVING count(*) > {1-3}",
    "SELECT avg(price), stddev(price) FROM articles WHERE name ILIKE '%{item}%' AND stock < {10-90}",
)
WORDS = {
    "query": "SQL",
    "date": "{2024-2027}-0{1-9}-{10-28}",
    "start": "{2024-2027}-0{1-9}-{10-28}T{10-18}:{10-55}",
    "when": "{1-28} {month}, {7-21}:{10-55}",
    "person": "{person}",
    "article": "{item}",
    "text": "{item} for {person}, {how}",
    "url": "https://{10-99}.example.org/{role}/{1000-9999}",
}
STATES = ("in_transit", "delivered", "open", "late", "cancelled", "confirmed", "waitlisted")


def conversation(rules: Rules, draw: Draw) -> JsonDict:
    """{"messages": …, "tools": …}: content is text, arguments are an object."""
    topic = draw.deal("topic", tuple(NAMES))
    tools = [_tool(rules, draw, draw.deal(topic, NAMES[topic])) for _ in range(draw.number(1, 3))]
    tools = list({tool["function"]["name"]: tool for tool in tools}.values())
    messages: list[JsonDict] = [{"role": "system", "content": write(rules, draw, "system")}]
    messages.append({"role": "user", "content": write(rules, draw, f"ask_{topic}")})
    for _ in range(draw.number(1, 4)):
        messages += _call(rules, draw, draw.pick(tools)["function"])
    messages.append({"role": "assistant", "content": write(rules, draw, f"say_{topic}")})
    if draw.below(3):
        messages.append({"role": "user", "content": write(rules, draw, "thanks")})
        messages.append({"role": "assistant", "content": write(rules, draw, "close")})
    return {"messages": messages, "tools": tools}


def answered(rules: Rules, draw: Draw, answers: Mapping[str, Iterator[str]]) -> JsonDict:
    """A conversation without tools, whose answers are texts: of a kind of `answers`, asked for by `write_<kind>`."""
    messages: list[JsonDict] = []
    if draw.below(2):
        messages.append({"role": "system", "content": write(rules, draw, "system")})
    for _ in range(draw.number(1, 3)):
        kind = draw.deal("kind", tuple(answers))
        messages.append({"role": "user", "content": write(rules, draw, f"write_{kind}")})
        messages.append({"role": "assistant", "content": next(answers[kind])})
    return {"messages": messages, "tools": []}


def _tool(rules: Rules, draw: Draw, name: str) -> JsonDict:
    """As OpenAI has it."""
    names = list(dict.fromkeys(draw.deal("field", tuple(FIELDS)) for _ in range(draw.number(1, 4))))
    properties: JsonDict = {n: {"type": FIELDS[n], "description": write(rules, draw, "parameter")} for n in names}
    for schema in properties.values():
        if schema["type"] == "array":
            schema["items"] = {"type": "string"}
    parameters = {"type": "object", "properties": properties, "required": names[: draw.number(1, len(names))]}
    about = {"name": name, "description": write(rules, draw, "about"), "parameters": parameters}
    return {"type": "function", "function": about}


def _call(rules: Rules, draw: Draw, function: JsonObject) -> list[JsonDict]:
    """The assistant's call and what came of it."""
    thought = write(rules, draw, "thought") if draw.below(2) else ""
    arguments = {name: _argument(rules, draw, name) for name in function["parameters"]["properties"]}
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return [
        {"role": "assistant", "content": thought, "tool_calls": [call]},
        {"role": "tool", "name": function["name"], "content": _result(rules, draw)},
    ]


def _argument(rules: Rules, draw: Draw, name: str) -> object:
    match FIELDS[name]:
        case "integer":
            return draw.number(1, 9) if name == "page" else draw.number(2, 1900)
        case "number":
            return draw.number(-900, 9000) / 100
        case "boolean":
            return bool(draw.below(2))
        case "array":
            return [_words(rules, draw, "{code}") for _ in range(draw.number(1, 3))]
    others = ("{place}", "{code}", "{item}", "{weekday} {7-21}:{10-55}", "{what}")
    return _words(rules, draw, WORDS.get(name) or draw.deal("argument", others))


def _words(rules: Rules, draw: Draw, pattern: str) -> str:
    pattern = draw.deal("sql", QUERIES) if pattern == "SQL" else pattern
    return write({**rules, "_": [pattern]}, draw, "_")


def _result(rules: Rules, draw: Draw) -> str:
    """What a tool answers, as JSON; now and then an error."""
    if not draw.below(7):
        return json.dumps({"error": write(rules, draw, "error").strip('"'), "code": draw.number(400, 599)})
    rows = [_record(rules, draw) for _ in range(draw.number(1, 3))]
    return json.dumps(rows if len(rows) > 1 else {"ok": True, **rows[0]}, ensure_ascii=False)


def _record(rules: Rules, draw: Draw) -> JsonDict:
    number = draw.number(1, 99_999)
    pairs: list[tuple[str, object]] = [
        ("id", write(rules, draw, "code")),
        (draw.deal("key", ("place", "station", "branch", "from", "city")), write(rules, draw, "place")),
        (draw.deal("amount", ("minutes", "price", "count", "km", "total")), number if draw.below(2) else number / 100),
        ("state", draw.deal("state", STATES)),
        (draw.deal("who", ("owner", "contact", "assignee")), write(rules, draw, "person")),
        ("note", write(rules, draw, "thanks")),
    ]
    return dict(pairs[place] for place in draw.order(len(pairs))[: draw.number(2, 5)])
