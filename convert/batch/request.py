"""What a batch was asked to do: read from a batch.yaml, or from the words of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convert.batch.models import COMMAND_LINE, LISTS, Found, add_entry, add_list, add_word
from convert.batch.options import BatchFile, Keep, Limits, ModelEntry, Order, Pair, Value
from convert.errors import PlanError, Problem, RecipeError
from convert.options import Options, words_of
from convert.recipe import Place, read_words, where_in
from convert.suggest import suggest

if TYPE_CHECKING:
    from pydantic import ValidationError

YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Request:
    """Models and recipes, and how. `problems` is what is wrong with single models: the others can go on without."""

    found: Found
    recipes: tuple[Path, ...]  # for every model
    whole: tuple[Path, ...] = ()  # recipes that name their model themselves
    name: str = ""
    variables: Mapping[str, Value] = field(default_factory=dict)
    only: tuple[Pair, ...] = ()
    include: tuple[Pair, ...] = ()
    exclude: tuple[Pair, ...] = ()
    limits: Limits = field(default_factory=Limits)
    keep: Keep = "all"
    order: Order = "listed"


def request_of(
    words: Sequence[str | Path], recipes: Sequence[str | Path] = (), lists: Sequence[str | Path] = ()
) -> Request:
    """The request that words make: one batch.yaml, or models, lists of models and recipes. Raises PlanError."""
    files = [Path(word) for word in words if Path(word).suffix in YAML]
    others = [str(word) for word in words if Path(word).suffix not in YAML]
    batches = [path for path in files if _is_batch(path)]
    if batches:
        if len(words) > 1 or recipes or lists:
            raise PlanError(Problem(str(batches[0]), "is a batch, and more was named beside it", "a batch alone"))
        return from_file(batches[0])
    found = Found()
    for word in others:
        if Path(word).suffix in LISTS and Path(word).is_file():
            add_list(found, Path(word))
        else:
            add_word(found, word, COMMAND_LINE, Path())
    for path in lists:
        add_list(found, Path(path))
    if not words and not lists:
        raise PlanError(Problem(COMMAND_LINE, "names nothing to convert", "a batch.yaml, models, or --models LIST"))
    if not recipes and (others or lists):
        remedy = "give --recipe FILE; `convert init MODEL` writes one"
        raise PlanError(Problem(COMMAND_LINE, "names models and no recipe", "what to make of them", remedy))
    if recipes and not (others or lists):
        raise PlanError(Problem(COMMAND_LINE, "names a recipe and no model", "folders, hub models, or --models LIST"))
    return Request(found, tuple(map(Path, recipes)), tuple(files))


def from_file(path: Path) -> Request:
    """The request of a batch.yaml. Raises RecipeError with every problem of the file, each with its line."""
    from pydantic import ValidationError

    raw, lines = read_words(path)
    words = dict(raw) if isinstance(raw, dict) else {}
    for one, many in (("recipe", "recipes"), ("model", "models")):
        if one in words and many not in words:
            words[many] = words.pop(one) if isinstance(words[one], list) else [words.pop(one)]
    try:
        file = BatchFile.model_validate(words, context={"folder": path.parent})
    except ValidationError as error:
        raise RecipeError(*_problems(error, path, lines)) from None
    found = Found()
    for number, model in enumerate(file.models):
        where = where_in(path, lines, ("models", number))
        if isinstance(model, ModelEntry):
            add_entry(found, model, where, Path())
        elif Path(model).suffix in LISTS:
            add_list(found, path.parent / model)
        else:
            add_word(found, model, where, path.parent)
    pairs = tuple(file.only), tuple(file.include), tuple(file.exclude)
    named = file.name or "", file.variables
    return Request(found, tuple(file.recipes), (), *named, *pairs, file.limits, file.keep, file.order)


def _is_batch(path: Path) -> bool:
    """Whether a YAML file is a batch, and no recipe. Raises RecipeError for one that cannot be read."""
    raw, _ = read_words(path)
    return isinstance(raw, dict) and bool({"models", "recipes"} & raw.keys())


def _problems(error: ValidationError, path: Path, lines: Mapping[Place, int]) -> list[Problem]:
    """What pydantic refuses, at its line; of the forms that an entry may have, only what the nearest one says."""
    found: dict[str, Problem] = {}
    for detail in error.errors():
        at = tuple(part for part in detail["loc"] if part not in ("str", "ModelEntry"))
        word = str(at[-1]) if at else ""
        where = where_in(path, lines, at)
        if detail["type"] == "extra_forbidden":
            known = _known(at)
            problem = Problem(where, f"unknown key '{word}'", "", suggest(word, known))
        elif detail["type"] == "missing":
            problem = Problem(where, f"'{word}' is missing", "", f"add `{word}:`")
        elif detail["type"] == "string_type" and "str" in detail["loc"] and isinstance(detail["input"], dict):
            continue  # it is an entry, and what is wrong with that is said
        else:
            said = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
            problem = Problem(where, f"{word}: {said[:1].lower()}{said[1:]}")
        found.setdefault(str(problem), problem)
    return list(found.values())


def _known(at: Place) -> list[str]:
    kinds: dict[str, type[Options]] = {
        "limits": Limits,
        "models": ModelEntry,
        "include": Pair,
        "exclude": Pair,
        "only": Pair,
    }
    kind = kinds.get(str(at[0]), BatchFile) if len(at) > 1 else BatchFile
    return list(words_of(kind))
