"""recipe.yaml -> Recipe; every problem of the file at once, each with its line. Exports the JSON Schema.

A recipe is a mapping with `name`, `model`, `stages`, `validate` and `release`. `model` holds the options of the stage
`source`, `validate` those of the stage `validate`, `release` those of `convert release`, and every entry of `stages`
says `use:` (which stage), `from:` (whose output it takes; `source` when left out) and that stage's options. This module
knows none of their words: it asks each stage.
"""

from __future__ import annotations

import difflib
import graphlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from convert import registry
from convert.errors import Problem, RecipeError, raise_all
from convert.files import open_regular
from convert.formats.base import SOURCE
from convert.json_types import JsonDict, JsonObject
from convert.registry import VALIDATE
from convert.suggest import suggest

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from convert.options import Options
    from convert.release_options import ReleaseOptions

LONGEST_GOT = 400  # characters of what is quoted
MAX_RECIPE_BYTES = 1 << 20
MAX_NODES = 10_000  # aliases can make a small file expand without end
RELEASE = "release"
WORDS = ("name", "model", "stages", "validate", RELEASE)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RESERVED = (SOURCE, VALIDATE, "logs", "report.json", "report.md")  # what the pipeline itself puts beside the stages

Place = tuple[str | int, ...]

YAML_KINDS: Mapping[type, str] = {str: "string", int: "number", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class StageSpec:
    """One step as the recipe asks for it, its options already checked by the stage itself."""

    use: str
    inputs: tuple[str, ...]
    options: Options


@dataclass(frozen=True)
class Recipe:
    """A checked recipe. `stages` is in an order that can be run: `source` first, `validate`, if asked for, last."""

    name: str
    path: Path
    sha256: str
    stages: Mapping[str, StageSpec]
    lines: Mapping[Place, int]
    release: ReleaseOptions | None = None  # None where the recipe does not say

    def where(self, *place: str | int) -> str:
        """`file:line` of a place in the YAML, such as ("stages", "q4", "types")."""
        return _where(self.path, self.lines, place)

    def where_stage(self, name: str, *words: str) -> str:
        """`file:line` of a stage, or of one of its options."""
        return self.where(*_section(name), *words)


def load_recipe(path: str | Path) -> Recipe:
    """The recipe in the YAML file at `path`. Raises RecipeError with every problem found."""
    path = Path(path)
    data = _read(path)
    raw, lines = _parse(data, path)
    reader = _Reader(path, lines)
    recipe = reader.recipe(raw, hashlib.sha256(data).hexdigest())
    raise_all(reader.problems, RecipeError)
    return recipe


def read_words(path: Path) -> tuple[object, Mapping[Place, int]]:
    """What a YAML file says, as plain data, and the line of every place in it. Raises RecipeError."""
    return _parse(_read(path), path)


def where_in(path: Path, lines: Mapping[Place, int], place: Place) -> str:
    """`file:line` of a place, or of the nearest around it that has a line."""
    return _where(path, lines, place)


def recipe_of(words: JsonObject, path: Path, lines: Mapping[Place, int] | None = None) -> Recipe:
    """The recipe that plain words make, as if they stood in a file at `path`, at `lines`. Raises RecipeError."""
    reader = _Reader(path, lines or {})
    text = json.dumps(words, sort_keys=True, default=str)
    recipe = reader.recipe(dict(words), hashlib.sha256(text.encode()).hexdigest())
    raise_all(reader.problems, RecipeError)
    return recipe


def with_validation(recipe: Recipe) -> Recipe:
    """The recipe with a `validate:` section: an empty one, which asks for the defaults, where it has none."""
    if VALIDATE in recipe.stages:
        return recipe
    last = StageSpec(VALIDATE, tuple(recipe.stages), registry.load(VALIDATE).Options())
    return replace(recipe, stages={**recipe.stages, VALIDATE: last})


def runs_code(recipe: Recipe) -> bool:
    """Whether the recipe lets a model's own code run."""
    return any(dict(spec.options).get("trust_remote_code") for spec in recipe.stages.values())


def json_schema() -> JsonDict:
    """The JSON Schema of a recipe, for editors: every stage's own words included."""
    definitions: JsonDict = {}

    def options_schema(stage: str) -> JsonDict:
        schema: JsonDict = _kind(stage).model_json_schema(ref_template=f"#/$defs/{stage}.{{model}}")
        definitions.update({f"{stage}.{name}": inner for name, inner in schema.pop("$defs", {}).items()})
        return schema

    def entry(stage: str) -> JsonDict:
        schema = options_schema(stage)
        names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
        own = {
            "use": {"const": stage, "description": registry.load(stage).title},
            "from": names | {"description": "the stage or stages whose output this one takes; source when left out"},
        }
        return schema | {
            "title": stage,
            "properties": own | schema.get("properties", {}),
            "required": ["use", *schema.get("required", [])],
        }

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "convert recipe",
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "model"],
        "properties": {
            "name": {
                "type": "string",
                "pattern": f"^{NAME.pattern}$",
                "description": "the folder under the output folder",
            },
            "model": options_schema(SOURCE),
            "stages": {
                "type": ["object", "null"],
                "propertyNames": {"pattern": f"^{NAME.pattern}$", "not": {"enum": list(RESERVED)}},
                "additionalProperties": {"oneOf": [entry(s) for s in registry.names() if s not in (SOURCE, VALIDATE)]},
            },
            "validate": {"anyOf": [options_schema(VALIDATE), {"type": "null"}]},
            RELEASE: {"anyOf": [options_schema(RELEASE), {"type": "null"}]},
        },
        "$defs": definitions,
    }


class _Reader:
    """Turns plain YAML data into a Recipe and gathers what is wrong on the way."""

    def __init__(self, path: Path, lines: Mapping[Place, int]) -> None:
        self.path, self.lines, self.problems = path, lines, list[Problem]()

    def say(self, place: Place, got: str, wanted: str = "", remedy: str = "") -> None:
        self.problems.append(Problem(_where(self.path, self.lines, place), _readable(got), wanted, remedy))

    def recipe(self, tree: object, sha256: str) -> Recipe:
        if tree is None:
            problem = Problem(str(self.path), "is empty", "`name:` and `model:`", "`convert init` writes one")
            raise RecipeError(problem)
        raw = self.mapping((), tree)
        for word in raw.keys() - set(WORDS):
            self.say((word,), f"unknown key '{word}'", remedy=suggest(word, WORDS))
        name = raw.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            got = "no name" if name is None else f"name is {name!r}"
            if isinstance(name, int | float):
                self.say(("name",), got, "a string", f"write it as '{name}'")
            else:
                self.say(("name",), got, "letters, digits, '.', '_' and '-', at most 100", "it names the output folder")
        specs = {SOURCE: StageSpec(SOURCE, (), self.options(SOURCE, (("model",)), raw.get("model")))}
        specs |= self.stages(raw.get("stages"))
        if "validate" in raw:
            options = self.options(VALIDATE, ("validate",), {} if raw["validate"] is None else raw["validate"])
            specs[VALIDATE] = StageSpec(VALIDATE, tuple(specs), options)
        release = self.release(raw) if RELEASE in raw else None
        return Recipe(str(name), self.path, sha256, self.ordered(specs), self.lines, release)

    def release(self, raw: JsonObject) -> ReleaseOptions:
        options = self.options(RELEASE, (RELEASE,), {} if raw[RELEASE] is None else raw[RELEASE])
        return cast("ReleaseOptions", options)

    def mapping(self, place: Place, value: object) -> JsonDict:
        if isinstance(value, dict):
            return value
        what = "missing or empty" if value is None else f"a {YAML_KINDS.get(type(value), type(value).__name__)}"
        self.say(place, f"`{place[-1]}:` is {what}" if place else f"the recipe is {what}", "a mapping (`key: value`)")
        return {}

    def stages(self, raw: object) -> dict[str, StageSpec]:
        specs: dict[str, StageSpec] = {}
        for name, entry in self.mapping(("stages",), {} if raw is None else raw).items():
            place = ("stages", name)
            if not NAME.fullmatch(name) or name in RESERVED or name.endswith((".partial", ".old")):
                wanted = f"letters, digits, '.', '_' and '-', and none of {', '.join(RESERVED)}"
                self.say(place, f"'{name}' cannot name a stage", wanted)
                continue
            fields = dict(self.mapping(place, entry))
            use, inputs = fields.pop("use", None), fields.pop("from", SOURCE)
            known = [s for s in registry.names() if s not in (SOURCE, VALIDATE)]
            if use not in known:
                got = f"stage '{name}' has no `use:`" if use is None else f"`use: {use}` is not a stage"
                self.say((*place, "use"), got, remedy=suggest(str(use), known, "convert stages"))
                continue
            if isinstance(inputs, str):
                inputs = [inputs]
            if not isinstance(inputs, list) or not inputs or not all(isinstance(i, str) for i in inputs):
                self.say((*place, "from"), f"`from: {inputs}`", "a stage's name or a list of names")
                inputs = [SOURCE]
            specs[name] = StageSpec(use, tuple(dict.fromkeys(inputs)), self.options(use, place, fields))
        return specs

    def options(self, stage: str, place: Place, raw: object) -> Options:
        """The stage's options object; what it refuses becomes problems at the refused word's line."""
        from pydantic import ValidationError

        kind = _kind(stage)
        if not isinstance(raw, dict):
            self.mapping(place, raw)
            return kind.model_construct()
        try:
            return kind.model_validate(raw, context={"folder": self.path.parent})
        except ValidationError as error:
            details = error.errors()
            unknown = [str(detail["loc"][-1]) for detail in details if detail["type"] == "extra_forbidden"]
            for detail in details:
                # A key that is misspelt is one mistake: that it is missing under its right name goes without saying.
                if detail["type"] != "missing" or not difflib.get_close_matches(str(detail["loc"][-1]), unknown):
                    self._refused(stage, place, detail)
            return kind.model_construct()

    def _refused(self, stage: str, place: Place, detail: ErrorDetails) -> None:
        at = tuple(part for part in detail["loc"] if part != "[key]")  # what pydantic puts behind a mapping's key
        word = at[-1] if at else ""
        if detail["type"] == "extra_forbidden":
            known = _words(stage, at[:-1])
            self.say((*place, *at), f"unknown key '{word}'", remedy=suggest(str(word), known, "convert stages"))
        elif detail["type"] == "missing":
            self.say(place, f"'{word}' is missing", remedy=f"add `{word}:`")
        elif detail["type"] == "value_error":
            said = str(detail["ctx"]["error"])
            named = not isinstance(word, str) or word in said
            self.say((*place, *at), said if named else f"{word}: {said}")
        else:
            wanted = detail["msg"].replace("Input should be a valid tuple", "Input should be a valid list")
            self.say((*place, *at), f"{word} is {detail['input']!r}: {wanted[:1].lower()}{wanted[1:]}")

    def ordered(self, specs: Mapping[str, StageSpec]) -> dict[str, StageSpec]:
        """The stages so that each comes after its inputs; unknown inputs and cycles become problems."""
        graph: dict[str, list[str]] = {}
        for name, spec in specs.items():
            graph[name] = [i for i in spec.inputs if i in specs and i != VALIDATE]
            for missing in (i for i in spec.inputs if i not in specs or i == VALIDATE):
                remedy = suggest(missing, [s for s in specs if s not in (name, VALIDATE)])
                why = "which is the last step" if missing == VALIDATE else f"and there is no stage '{missing}'"
                got = f"stage '{name}' takes `from: {missing}`, {why}"
                self.say((*_section(name), "from"), got, "", remedy)
        try:
            order = list(graphlib.TopologicalSorter(graph).static_order())
        except graphlib.CycleError as error:
            nodes = error.args[1]
            got = f"the stages form a cycle: {' -> '.join(reversed(nodes))}"
            self.say((*_section(nodes[0]), "from"), got, remedy=f"let one of them take `from: {SOURCE}`")
            order = list(specs)
        # Steady: recipe order where the graph leaves a choice, so that two runs print the same plan.
        rank = {name: i for i, name in enumerate(specs)}
        depth: dict[str, int] = {}
        for name in order:
            depth[name] = max((depth.get(i, 0) + 1 for i in graph[name]), default=0)
        return {name: specs[name] for name in sorted(order, key=lambda n: (n == VALIDATE, depth[n], rank[n]))}


def _readable(got: str) -> str:
    """On one line and not without an end, whatever the file says there."""
    got = got if len(got) <= LONGEST_GOT else f"{got[:LONGEST_GOT]}…"
    return got if got.isprintable() else got.encode("unicode_escape").decode("ascii")


def _section(stage: str) -> Place:
    return {SOURCE: ("model",), VALIDATE: ("validate",)}.get(stage, ("stages", stage))


def _words(stage: str, inside: tuple[int | str, ...]) -> list[str]:
    """The words known where one was not: those of the options, or of the options object nested at `inside`."""
    from pydantic import BaseModel

    from convert.options import words_of

    model: type[BaseModel] = _kind(stage)
    for part in inside:
        words = words_of(model)
        if not isinstance(part, str) or part not in words:
            continue
        annotation = words[part].annotation
        nested = [a for a in (annotation, *getattr(annotation, "__args__", ())) if isinstance(a, type)]
        model = next((a for a in nested if issubclass(a, BaseModel)), model)
    return [*words_of(model), *(() if inside or stage in (SOURCE, VALIDATE, RELEASE) else ("use", "from"))]


def _kind(word: str) -> type[Options]:
    """What a section's options are: of a stage, or of what becomes of all outputs."""
    if word == RELEASE:
        from convert.release_options import ReleaseOptions  # pydantic: as stages' own, when it is asked for

        return ReleaseOptions
    kind: type[Options] = registry.load(word).Options
    return kind


def _where(path: Path, lines: Mapping[Place, int], place: Place) -> str:
    for length in range(len(place), -1, -1):  # the nearest enclosing place that has a line
        if place[:length] in lines:
            return f"{path}:{lines[place[:length]]}"
    return str(path)


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(MAX_RECIPE_BYTES + 1)
    except OSError as error:
        problem = Problem(str(path), f"cannot be read: {error.strerror}", "", "give the path of a recipe")
        raise RecipeError(problem) from error
    if len(data) > MAX_RECIPE_BYTES:
        raise RecipeError(Problem(str(path), "is larger than 1 MiB", "a recipe in YAML"))
    return data


def _parse(data: bytes, path: Path) -> tuple[object, dict[Place, int]]:
    """Plain Python data and the line of every place in it. YAML 1.2: `1e-4` is a number, `no` is a word."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        tree = YAML(typ="rt").load(data.decode("utf-8"))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = (error.problem or "cannot be parsed").splitlines()[0]
        twice = re.match('found duplicate key "(.+?)"', problem)
        if twice:
            raise RecipeError(Problem(where, f"the key '{twice[1]}' is there twice", "", "keep one of them")) from error
        raise RecipeError(Problem(where, f"not valid YAML: {problem}", "", "correct the line")) from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(Problem(str(path), f"not valid YAML: {str(error).splitlines()[0]}")) from error
    lines: dict[Place, int] = {(): 1}
    counter = iter(range(MAX_NODES))
    return _plain(tree, (), lines, path, counter), lines


def _plain(node: object, place: Place, lines: dict[Place, int], path: Path, counter: Iterator[int]) -> object:
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if next(counter, None) is None or len(place) > 20:
        raise RecipeError(Problem(str(path), f"expands to more than {MAX_NODES} values", "", "use fewer aliases"))
    if isinstance(node, CommentedMap):
        result = {}
        for key, value in node.items():
            line = node.lc.key(key)[0] + 1 if key in (node.lc.data or ()) else lines[place]
            lines[(*place, key)] = line
            if not isinstance(key, str):
                problem = Problem(f"{path}:{line}", f"the key {key!r} is not a string", "", f"write it as '{key}'")
                raise RecipeError(problem)
            result[str(key)] = _plain(value, (*place, str(key)), lines, path, counter)
        return result
    if isinstance(node, CommentedSeq):
        for i in range(len(node)):
            lines[(*place, i)] = node.lc.item(i)[0] + 1 if node.lc.data else lines[place]  # a tagged list has none
        return [_plain(value, (*place, i), lines, path, counter) for i, value in enumerate(node)]
    if type(node).__name__ == "ScalarBoolean":  # an int to Python
        return bool(node)
    for kind in (bool, int, float, str):  # ruamel's own scalar types remember their spelling; we do not need it
        if isinstance(node, kind):
            return kind(node)
    return node if node is None else str(node)
