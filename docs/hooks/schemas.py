"""The pages of what a recipe can say and of what report.json holds, from their JSON Schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from docs.hooks import blocks

Schema = Mapping[str, Any]

RECIPE_HEAD = """\
# Recipe

A recipe is YAML 1.2: `1e-4` is a number, `no` is a word. Paths are relative to the recipe's own folder. A word that
is unknown, a value that does not fit and a stage that is not there are all reported at once, each with its line.

`convert schema` prints the JSON Schema that this page is made of; editors complete and check recipes with it.
`convert stages` prints the options in a terminal, `convert init` writes a recipe to begin with.

| word | holds |
| :-- | :-- |
| `name` | the folder below the output folder; required |
| `model` | [which model](#model); required |
| `stages` | name -> what to make, in any order |
| `validate` | [how outputs are measured and what they must keep](#validate); nothing is measured without it |
| `release` | [what `convert release` publishes](#release), where, and what with it |

An entry of `stages` says `use:` (which stage, below), `from:` (the stage or stages whose output it takes; the model
when left out) and the stage's own options. Its name is the folder that its files get."""

REPORT_HEAD = """\
# Report fields

`report.json` is for scripts; `convert schema report` prints the JSON Schema that this page is made of. Additions do
not raise `schema_version`; a word that goes, or means something else, does. A number that was NaN or infinite is
null, and `reason` says so. [How drift is measured](../explanation/drift.md) says what the numbers mean."""

METRICS = """\
What `metrics` of an output may hold, and what `limits` of a recipe may name. `<=`: the number has to stay at or below
its limit."""

DEFAULTS = """\
They count where a recipe says nothing, and beside a preset the stricter of the two does. They catch a broken file,
not a slightly worse one: that is what a recipe's own limits are for. `*` is every other type."""


def recipe_page() -> str:
    """Every option of every stage."""
    from convert.recipe import json_schema

    schema = json_schema()
    definitions = schema["$defs"]
    stages = schema["properties"]["stages"]["additionalProperties"]["oneOf"]
    return blocks.page(
        RECIPE_HEAD,
        _options("model", schema["properties"]["model"], definitions),
        *(_options(_word(stage), stage, definitions) for stage in stages),
        _options("validate", _without_null(schema["properties"]["validate"]), definitions),
        _options("release", _without_null(schema["properties"]["release"]), definitions),
    )


def report_page() -> str:
    """Every field of report.json, object by object."""
    from convert.validation.read_report import json_schema

    schema = json_schema()
    parts = [("The report", schema), *schema["$defs"].items()]
    return blocks.page(REPORT_HEAD, _metrics(), _presets(), *(_object(title, part) for title, part in parts))


def _metrics() -> str:
    """What each number of `metrics` is, and what a limit on it means."""
    from validate.metrics import DEFINITIONS

    rows = [(f"`{name}`", str(one.better), blocks.prose(one.meaning)) for name, one in DEFINITIONS.items()]
    return blocks.page("## Metrics", METRICS, blocks.table(("metric", "limit", "is"), rows)).rstrip()


def _presets() -> str:
    """What the words of `limits` stand for, and what counts where a recipe says nothing."""
    from validate.gates import PRESETS
    from validate.metrics import DEFAULT_LIMITS

    names = list(dict.fromkeys(name for preset in PRESETS.values() for name in preset.limits))
    head = ("preset", "means", *(f"`{name}`" for name in names))
    rows = [(word, one.meaning, *(f"{one.limits[name]:g}" for name in names)) for word, one in PRESETS.items()]
    types = [(f"`{type_}`", _limits(limits)) for type_, limits in DEFAULT_LIMITS.items()]
    defaults = blocks.table(("type starts with", "limits"), types)
    return blocks.page("## Presets", blocks.table(head, rows), "## Limits of a type", DEFAULTS, defaults).rstrip()


def _limits(limits: Mapping[str, float]) -> str:
    return ", ".join(f"`{name}` {value:g}" for name, value in limits.items())


def _without_null(schema: Schema) -> Schema:
    """What is said where something is."""
    return next((inner for inner in schema.get("anyOf", ()) if inner.get("type") != "null"), schema)


def _word(stage: Schema) -> str:
    return f"use: {stage['properties']['use']['const']}"


def _options(title: str, schema: Schema, definitions: Schema) -> str:
    """A stage's table, and one for each options object that its options hold."""
    properties = dict(schema["properties"])
    use = properties.pop("use", None)
    properties.pop("from", None)
    about = use["description"] if use else ""
    nested = dict.fromkeys(name for value in properties.values() for name in _references(value))
    inner = (_fields(definitions[name], f"`{name.rpartition('.')[2]}`:") for name in nested)
    return blocks.page(f"## {title}", blocks.prose(about), _fields(schema, ""), *inner).rstrip()


def _fields(schema: Schema, title: str) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (f"`{name}`", _type(value), _default(name, value, required), blocks.prose(value.get("description", "")))
        for name, value in schema["properties"].items()
        if name not in ("use", "from")
    ]
    if not rows:
        return "It has no options."
    return blocks.page(title, blocks.table(("option", "value", "default", "what it says"), rows)).rstrip()


def _object(title: str, schema: Schema) -> str:
    required = set(schema.get("required", ()))
    rows = [
        (f"`{name}`", _type(value, linked=True) + ("" if name in required else ", may be left out"))
        for name, value in schema.get("properties", {}).items()
    ]
    about = blocks.prose(schema.get("description", "") if title != "The report" else "")
    return blocks.page(f"## {title}", about, blocks.table(("field", "value"), rows)).rstrip()


def _default(name: str, value: Schema, required: set[str]) -> str:
    if name in required:
        return "required"
    default = value.get("default")
    return "" if default is None or default in ([], {}) else f"`{json.dumps(default)}`"


def _references(value: Any) -> Iterator[str]:
    """The definitions that a property's value may be of."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].rpartition("/")[2]
        for inner in value.values():
            yield from _references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _references(inner)


def _type(value: Schema, *, linked: bool = False) -> str:
    """The kind of value in a word or two."""
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2].rpartition(".")[2]
        return f"[{name}](#{name.lower()})" if linked else f"`{name}`"
    if "const" in value:
        return f"`{json.dumps(value['const'])}`"
    if "enum" in value:
        return _choices(value["enum"])
    if "anyOf" in value or "oneOf" in value:
        kinds = [_type(inner, linked=linked) for inner in value.get("anyOf") or value["oneOf"]]
        return " or ".join(dict.fromkeys(kind for kind in kinds if kind != "null"))
    kind = value.get("type", "any")
    if kind == "array":
        return f"list of {_type(value['items'], linked=linked)}" if isinstance(value.get("items"), dict) else "list"
    if kind == "object" and isinstance(value.get("additionalProperties"), dict):
        return f"mapping to {_type(value['additionalProperties'], linked=linked)}"
    if isinstance(kind, list):
        return " or ".join(kind)
    return "path" if value.get("format") == "path" else str(kind)


def _choices(words: list[Any]) -> str:
    return ", ".join(f"`{word if isinstance(word, str) else json.dumps(word)}`" for word in words if word is not None)
