"""Conversations with tools: a request, calls with arguments, results, an answer, a second round."""

from __future__ import annotations

import json
from dataclasses import dataclass

from convert.calibration.draw import Draw
from convert.calibration.grammar import Rules, write
from convert.json_types import JsonDict


@dataclass(frozen=True)
class Tool:
    """A function that a model may call; `fields` are its arguments: name -> JSON type, "…?" where it may be left out."""

    name: str
    about: str
    fields: tuple[tuple[str, str], ...]

    def schema(self) -> JsonDict:
        """As OpenAI has it."""
        kinds = {name: {"type": kind.rstrip("?")} for name, kind in self.fields}
        required = [name for name, kind in self.fields if not kind.endswith("?")]
        parameters = {"type": "object", "properties": kinds, "required": required}
        about = {"name": self.name, "description": self.about, "parameters": parameters}
        return {"type": "function", "function": about}


_PLACES = (("origin", "string"), ("destination", "string"), ("date", "string"), ("passengers", "integer?"))
TOOLS = {
    "travel": (
        Tool("search_connections", "Trains and buses between two places, earliest first", _PLACES),
        Tool("reserve_seat", "Reserve one seat; returns a code", (("trip_id", "string"), ("seat", "string?"))),
        Tool("get_delay", "Minutes of delay of a running service", (("service", "string"), ("station", "string?"))),
    ),
    "shop": (
        Tool("find_order", "Status and place of an order", (("order", "integer"),)),
        Tool("start_return", "Open a return and print its label", (("order", "integer"), ("reason", "string"))),
        Tool("stock", "How many of an article a branch has", (("article", "string"), ("branch", "string"))),
    ),
    "plan": (
        Tool("list_events", "Events of a person between two dates", (("person", "string"), ("from", "string"))),
        Tool("move_event", "Give an event another time", (("event", "string"), ("start", "string"), ("notify", "boolean"))),
        Tool("create_reminder", "Remind the user of something", (("text", "string"), ("when", "string"))),
    ),
    "data": (
        Tool("run_sql", "Run a read-only query and return rows as JSON", (("query", "string"), ("limit", "integer?"))),
        Tool("plot", "Draw a chart and return its address", (("kind", "string"), ("columns", "string"))),
    ),
    "screen": (
        Tool("click", "Click at a point of the screen, in pixels", (("x", "integer"), ("y", "integer"), ("button", "string?"))),
        Tool("type_text", "Type into the focused field", (("text", "string"), ("press_enter", "boolean?"))),
        Tool("scroll", "Scroll the page; negative is up", (("amount", "integer"),)),
    ),
}  # fmt: skip
QUERIES = (
    "SELECT week, sum(quantity) FROM sales WHERE branch = '{place}' GROUP BY week ORDER BY week",
    "SELECT c.name, round(sum(o.total), 2) AS spent FROM orders o JOIN customers c USING (customer_id) LIMIT {3-20}",
    "SELECT order_id, count(*) FROM imports WHERE day = '{2019-2025}-0{1-9}-{10-28}' GROUP BY 1 HAVING count(*) > {1-3}",
    "SELECT avg(price), stddev(price) FROM articles WHERE name ILIKE '%{item}%' AND stock < {10-90}",
)
STATES = ("in_transit", "delivered", "open", "late", "cancelled", "confirmed", "waitlisted")


def conversation(rules: Rules, draw: Draw) -> JsonDict:
    """{"messages": …, "tools": …}: content is text, arguments are an object."""
    topic = draw.deal("topic", tuple(TOOLS))
    tools = TOOLS[topic]
    messages: list[JsonDict] = [{"role": "system", "content": write(rules, draw, "system")}]
    messages.append({"role": "user", "content": write(rules, draw, f"ask_{topic}")})
    for _ in range(draw.number(1, 3)):
        tool = draw.deal(topic, tools)
        thought = write(rules, draw, "thought") if draw.below(2) else ""
        call = {"name": tool.name, "arguments": {n: _argument(rules, draw, n, kind) for n, kind in tool.fields}}
        messages.append({"role": "assistant", "content": thought, "tool_calls": [{"type": "function", "function": call}]})
        messages.append({"role": "tool", "name": tool.name, "content": _result(rules, draw)})
    messages.append({"role": "assistant", "content": write(rules, draw, f"say_{topic}")})
    if draw.below(3):
        messages.append({"role": "user", "content": write(rules, draw, "thanks")})
        messages.append({"role": "assistant", "content": write(rules, draw, "close")})
    return {"messages": messages, "tools": [tool.schema() for tool in tools]}


def _argument(rules: Rules, draw: Draw, name: str, kind: str) -> object:
    if kind.startswith("integer"):
        return draw.number(1, 6) if name == "passengers" else draw.number(2, 1900)
    if kind.startswith("boolean"):
        return bool(draw.below(2))
    words = {
        "query": draw.deal("query", QUERIES),
        "date": "{2024-2027}-0{1-9}-{10-28}",
        "from": "{2024-2027}-1{0-2}-{10-28}",
        "start": "{2024-2027}-0{1-9}-{10-28}T{10-18}:{10-55}",
        "when": "{1-28} {month}, {7-21}:{10-55}",
        "person": "{person}",
        "article": "{item}",
        "text": "{item} for {person}",
    }
    pattern = words.get(name) or draw.deal("argument", ("{place}", "{code}", "{item}", "{weekday} {7-21}:{10-55}"))
    return write({**rules, "_": [pattern]}, draw, "_")


def _result(rules: Rules, draw: Draw) -> str:
    """What a tool answers, as JSON; now and then an error."""
    if not draw.below(7):
        return json.dumps({"error": write(rules, draw, "error").strip('"'), "code": draw.number(400, 599)})
    rows = [
        {
            "id": write(rules, draw, "code"),
            draw.deal("key", ("place", "station", "branch", "from")): write(rules, draw, "place"),
            draw.deal("number", ("minutes", "price", "count", "km", "total")): draw.number(1, 99_999) / draw.pick((1, 10, 100)),
            "state": draw.deal("state", STATES),
        }
        for _ in range(draw.number(1, 3))
    ]
    return json.dumps(rows if len(rows) > 1 else {"ok": True, **rows[0]}, ensure_ascii=False)
