"""Request -> Jobs: a recipe for each model, as `convert run` takes it, and all that is wrong before anything starts.

The recipe of a pair is written to OUT/.convert/recipes/<name>.yaml with paths that are whole, so that it means the same
from there: `convert run OUT/.convert/recipes/<name>.yaml --out OUT` is what the batch does for that model.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from convert.batch.models import Model
from convert.batch.options import Pair
from convert.batch.request import Request
from convert.batch.variables import has_variable, substituted
from convert.errors import Problem, RecipeError
from convert.files import STATE_FOLDER, replace_text
from convert.formats.base import SOURCE
from convert.json_types import JsonDict
from convert.recipe import Place, Recipe, load_recipe, read_words, recipe_of, where_in
from convert.registry import VALIDATE

RECIPES = "recipes"  # below STATE_FOLDER
ONE, MANY = "{{model.name}}", "{{model.name}}-{{recipe.name}}"


@dataclass(frozen=True)
class Job:
    """One model and what to make of it. `text` is its recipe; empty for one that lies in a file of its own."""

    name: str  # the folder below OUT
    model: str  # what it is: a folder, or org/name@revision
    recipe: str  # the recipe's file without .yaml
    where: str
    path: Path  # of the recipe that is run
    text: str = ""
    hub: str = ""
    revision: str = ""
    source_bytes: int = 0  # of a folder that is here

    @property
    def sha256(self) -> str:
        """Of the recipe's bytes, as a manifest has it."""
        return hashlib.sha256(self.text.encode() if self.text else self.path.read_bytes()).hexdigest()

    def write(self) -> None:
        """Put the recipe where it is run from; one that is there already stays."""
        if self.text and not (self.path.is_file() and self.path.read_text(encoding="utf-8") == self.text):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(self.path, self.text)


@dataclass
class Jobs:
    """Those that can be run, what is wrong with others (`bad`), and what is wrong with all (`problems`)."""

    jobs: list[Job] = field(default_factory=list)
    bad: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class _Template:
    """A recipe before its variables are put in."""

    path: Path
    words: Mapping[str, object]
    lines: Mapping[Place, int]

    @property
    def name(self) -> str:
        return self.path.stem


def jobs_of(request: Request, out: Path) -> Jobs:
    """Every job of the request, in its order."""
    found = Jobs(bad=list(request.found.problems))
    templates = list(_templates(request.recipes, found))
    folder = out.absolute() / STATE_FOLDER / RECIPES
    models = _once(request.found.models, found)
    for model in models:
        for template in templates:
            if _wanted(request, model, template):
                _add(request, model, template, folder, found)
    for path in request.whole:
        _add_whole(path, found)
    found.jobs = _apart(found.jobs, found)
    found.jobs = _ordered(found.jobs, request.order)
    found.bad = list(dict.fromkeys(found.bad))
    if not (found.jobs or found.bad or found.problems):
        found.problems.append(
            Problem("the batch", "has no pair of model and recipe left", "", "look at only and exclude")
        )
    return found


def _templates(paths: Sequence[Path], found: Jobs) -> Iterator[_Template]:
    for path in paths:
        try:
            words, lines = read_words(path)
        except RecipeError as error:
            found.problems += [p for p in error.problems if isinstance(p, Problem)]
            continue
        if not isinstance(words, dict):
            found.problems.append(Problem(str(path), "is no recipe", "a mapping with `stages:`"))
            continue
        yield _Template(path, words, lines)


def _wanted(request: Request, model: Model, template: _Template) -> bool:
    def among(pairs: Sequence[Pair]) -> bool:
        return any(fnmatchcase(model.name, p.model) and fnmatchcase(template.name, p.recipe) for p in pairs)

    return among(request.include) or ((not request.only or among(request.only)) and not among(request.exclude))


def _add(request: Request, model: Model, template: _Template, folder: Path, found: Jobs) -> None:
    """The job of a pair; what is wrong with it goes to `bad`, what is wrong with the recipe whatever the model too."""
    problems: list[Problem] = []

    def say(place: Place, got: str, remedy: str) -> None:
        where = where_in(template.path, template.lines, place)
        problems.append(Problem(where, f"for the model of {model.where}: {got}", "", remedy))

    known = {**request.variables, **model.known(), "recipe.name": template.name}
    words = substituted(_for_model(request, model, template), known, say)
    assert isinstance(words, dict)
    try:
        if not problems:
            recipe = recipe_of(words, template.path, template.lines)
            text = _text(words, recipe, f"{template.path.name} for {model.where}")
            path, place = folder / f"{recipe.name}.yaml", (model.hub, model.revision, _size(model.path))
            found.jobs.append(Job(recipe.name, model.place, template.name, model.where, path, text, *place))
    except RecipeError as error:
        problems += [p for p in error.problems if isinstance(p, Problem)]
    found.bad += problems


def _for_model(request: Request, model: Model, template: _Template) -> JsonDict:
    """The recipe's words with this model in the place of its own."""
    words = dict(template.words)
    own = words.get("name")
    name = request.name or (own if has_variable(own) else MANY if len(request.recipes) > 1 else ONE)
    given = words.get("model") or {}
    if not isinstance(given, dict):
        return {**words, "name": name}  # the recipe's reader says what is wrong with it
    theirs = {"path", "hub", "revision"} | ({"name"} if not has_variable(given.get("name")) else set())
    kept = {word: value for word, value in given.items() if word not in theirs}
    others = {word: value for word, value in words.items() if word not in ("name", "model")}
    return {"name": name, "model": {**model.words(), **kept}, **others}


def _add_whole(path: Path, found: Jobs) -> None:
    """A recipe that names its model itself."""
    try:
        recipe = load_recipe(path)
    except RecipeError as error:
        found.bad += [p for p in error.problems if isinstance(p, Problem)]
        return
    options = dict(recipe.stages[SOURCE].options)
    folder, hub, revision = options["path"], options.get("hub") or "", options.get("revision") or ""
    model = Model("", "", Path(folder).absolute() if folder else None, hub, revision)
    place = hub, revision, _size(model.path)
    found.jobs.append(Job(recipe.name, model.place, path.stem, str(path), path.absolute(), "", *place))


def _once(models: Sequence[Model], found: Jobs) -> list[Model]:
    """The models, each once; a model that is there twice and two of one name are told."""
    first: dict[str, Model] = {}
    for model in models:
        other = first.setdefault(model.name.casefold(), model)
        if other is not model:
            same = "the same model" if other.place == model.place else f"'{model.name}', the name of another model"
            got = f"is {same}, named at {other.where} too ({other.place})"
            found.bad.append(
                Problem(f"{model.where}: {model.place}", got, "", "give one of them a `name`, or leave it out")
            )
    return list(first.values())


def _apart(jobs: Sequence[Job], found: Jobs) -> list[Job]:
    """The jobs, none of which puts its outputs where another does, whatever the file system thinks of case."""
    first: dict[str, Job] = {}
    for job in jobs:
        other = first.setdefault(job.name.casefold(), job)
        if other is not job:
            got = f"its folder '{job.name}' is that of {other.where} too"
            found.bad.append(
                Problem(f"{job.where}: {job.model}", got, "", "let `name:` have {{model.name}} and {{recipe.name}}")
            )
    return list(first.values())


def _ordered(jobs: list[Job], order: str) -> list[Job]:
    """By size where that was asked for, those of the hub last; the jobs of one model stay together."""
    if order == "listed":
        return jobs
    sign = 1 if order == "small-first" else -1
    return sorted(jobs, key=lambda job: (not job.source_bytes, sign * job.source_bytes))


def _size(path: Path | None) -> int:
    if path is None or not path.exists():
        return 0
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# ---- the recipe as a file


def _text(words: JsonDict, recipe: Recipe, what: str) -> str:
    """The recipe in YAML, its paths whole."""
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 4096
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump(_located(words, recipe), stream)
    return f"# Made by `convert batch` of {what}.\n{stream.getvalue()}"


def _located(words: JsonDict, recipe: Recipe) -> JsonDict:
    """The words with every path that an option names in full."""
    whole = dict(words)
    whole["model"] = _full(words["model"], recipe.stages[SOURCE].options)
    if isinstance(stages := words.get("stages"), dict):
        whole["stages"] = {name: _full(entry, recipe.stages[name].options) for name, entry in stages.items()}
    if isinstance(words.get("release"), dict):
        whole["release"] = _full(words["release"], recipe.release)
    if isinstance(words.get("validate"), dict):
        whole["validate"] = _full(words["validate"], recipe.stages[VALIDATE].options)
    return whole


def _full(raw: object, read: object) -> object:
    """`raw`, a part of a recipe, with the paths of `read`, which is what a stage's options made of it."""
    from pydantic import BaseModel

    if isinstance(read, Path) and isinstance(raw, str):
        return str(read.absolute())
    if isinstance(read, list | tuple) and isinstance(raw, str) and len(read) == 1:
        return _full(raw, read[0])
    if isinstance(read, list | tuple) and isinstance(raw, list) and len(raw) == len(read):
        return [_full(one, value) for one, value in zip(raw, read, strict=True)]
    if isinstance(raw, dict) and isinstance(read, BaseModel):
        fields = {info.alias or name: name for name, info in type(read).model_fields.items()}
        values = dict(read)
        return {word: _full(one, values.get(fields.get(word, ""))) for word, one in raw.items()}
    if isinstance(raw, dict) and isinstance(read, dict):
        return {word: _full(one, read.get(word)) for word, one in raw.items()}
    return raw
