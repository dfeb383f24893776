"""A commented recipe for a model: the entries of every format that can take it, and why the others cannot.

What a format's entries are, the format says itself (`recipe` of its Format); so one of another package has its own.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from convert import registry
from convert.errors import InputError
from convert.formats.base import SOURCE, Format, RecipeEntry
from convert.inspection.checkpoint_ref import hub_name, is_checkpoint, options_for
from convert.source import hub
from convert.source.checkpoint import PICKLES, Checkpoint, layout, open_checkpoint
from convert.source.stage import SourceOptions
from convert.source.untrusted import shown
from convert.stage import missing_packages
from convert.table import plain

UNKNOWN = "the model is not on this machine: what it supports is not known, so every format is below"
PICKLED = "its weights are pickles, which are not read here: what it supports is not known, so every format is below"
LONGEST = 60  # of what a config calls its class
VALIDATE = """\
# text: [notes.txt, chats.jsonl] # what your users write; a short set of our own when left out
# tokens: 10240                  # more tokens, narrower intervals; auto: until every limit is decided
limits: # what an output must keep, or `convert run` ends with exit code 3: a type, a stage, a pattern
  "*": usable # presets: near-lossless, good, usable"""


@dataclass(frozen=True)
class Subject:
    """The model that a recipe is for. `checkpoint` is None where nothing can be asked of it: `unknown` says why."""

    name: str
    model: tuple[str, ...]  # lines below `model:`
    checkpoint: Checkpoint | None
    unknown: str = ""


def subject(named: Path, recipe: Path) -> Subject:
    """The model called so, as a recipe in the file `recipe` names it.

    A folder, or org/name[@revision] of the hub. Raises InputError for what is neither, and for a broken checkpoint.
    """
    if not is_checkpoint(named):
        remedy = "name the folder of a checkpoint, or org/name[@revision] of the hub"
        raise InputError(str(named), "is no folder and no name of a hub model", "a model", remedy)
    if named.is_dir() or named.name == "config.json":
        folder = options_for(named).path or named
        return _seen(folder.resolve().name, (f"path: {_scalar(_relative(folder, recipe.parent))}",), folder)
    model, revision = hub_name(str(named))
    try:
        SourceOptions.model_validate({"hub": model, "revision": revision})
    except ValueError:
        raise InputError(str(named), "is no name of a hub model", "org/name[@revision]") from None
    found = hub.cached(model, revision)
    if found is None:
        lines = (f"hub: {model}", f"revision: {_scalar(revision)} # pin a commit: main moves")
        return Subject(_name(model.rpartition("/")[2]), lines, None, UNKNOWN)
    commit = found.name if hub.COMMIT.fullmatch(found.name) else revision
    lines = (f"hub: {model}", f"revision: {_scalar(commit)} # what {revision} is in the cache of this machine")
    return _seen(model.rpartition("/")[2], lines, found)


def recipe_text(about: Subject) -> str:
    """The recipe in YAML, comments included."""
    return "\n".join(_lines(about)) + "\n"


def _lines(about: Subject) -> Iterator[str]:
    yield "# Written by `convert init`. Delete what you do not want; `convert stages` lists every option."
    if about.checkpoint is not None:
        yield f"# The model: {_class(about.checkpoint)}."
    if about.unknown:
        yield f"# Note: {about.unknown}."
    yield "# Paths are relative to this file."
    yield f"name: {_scalar(about.name)}"
    yield "model:"
    yield from (f"  {line}" for line in about.model)
    yield "stages:"
    yield from _stages(about)
    yield from _validate()


def _stages(about: Subject) -> Iterator[str]:
    can_run = {SOURCE}
    for format_ in registry.formats():
        if (checkpoint := about.checkpoint) is not None and (missing := format_.supports(checkpoint).missing):
            yield ""
            yield f"  # {format_.title} is left out: {plain(missing[0])}"
            continue
        for entry in format_.recipe or _plain_entries(format_):
            why_not = _why_not(entry, can_run)
            if not why_not:
                can_run.add(entry.name)
            yield from _entry(entry, why_not, about.name)


def _plain_entries(format_: Format) -> tuple[RecipeEntry, ...]:
    """Of a format that shows none: its stages' words, whose options nobody can guess."""
    wanted = "its options: see `convert stages`"
    return tuple(RecipeEntry(word, word, registry.load(word).title, wanted=wanted) for word in format_.stages)


def _why_not(entry: RecipeEntry, can_run: set[str]) -> str:
    """What is to be done before an entry can be run; empty where it can as it stands."""
    todo = [problem.remedy for problem in missing_packages(registry.load(entry.use), entry.use)]
    if entry.wanted:
        todo.append(f"give {entry.wanted}")
    if entry.takes not in can_run:
        todo.append(f"use `{entry.takes}` above")
    return f"to use it: {', '.join(todo)}, and take the first # of each line away" if todo else ""


def _entry(entry: RecipeEntry, why_not: str, model: str) -> Iterator[str]:
    """The entry, as comments where something is missing."""
    takes = "" if entry.takes == SOURCE else f"from: {entry.takes}\n"
    options = entry.options.replace("MODEL", model)
    body = textwrap.indent(f"use: {entry.use}\n{takes}{options}".rstrip(), "  ")
    yield ""
    yield f"  # {entry.purpose}"
    if why_not:
        yield f"  # ({why_not})"
    start = "  # " if why_not else "  "
    yield from (f"{start}{line}" for line in (f"{entry.name}:", *body.splitlines()))


def _validate() -> Iterator[str]:
    yield ""
    problems = missing_packages(registry.load(registry.VALIDATE), registry.VALIDATE)
    start = "# " if problems else ""
    if problems:
        yield f"# to use it: {problems[0].remedy}, and take the first # of each line away"
    yield f"{start}validate: # every output is run on its own runtime and compared with the source"
    yield from (f"{start}  {line}" for line in VALIDATE.splitlines())


def _seen(name: str, lines: tuple[str, ...], folder: Path) -> Subject:
    """A model whose files are here. Raises InputError for a checkpoint that no stage could read."""
    if layout(folder) is PICKLES:
        return Subject(_name(name), lines, None, PICKLED)
    return Subject(_name(name), lines, open_checkpoint(folder))


def _class(checkpoint: Checkpoint) -> str:
    classes = checkpoint.config.get("architectures")
    if not isinstance(classes, list) or not classes:
        return "a class that config.json does not name"
    return str(classes[0]) if str(classes[0]).isidentifier() else shown(classes[0], LONGEST)


def _relative(folder: Path, recipes: Path) -> str:
    """`folder` from where the recipe lies; absolute where they have no more in common than the root."""
    folder, recipes = folder.absolute(), recipes.absolute()
    return (
        str(folder) if len(Path(os.path.commonpath((folder, recipes))).parts) == 1 else os.path.relpath(folder, recipes)
    )


def _name(text: str) -> str:
    """As a recipe may be called."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:90] or "model"


def _scalar(text: str) -> str:
    """As it stands in YAML: quoted where it could be read as something else."""
    return text if re.fullmatch(r"[A-Za-z./][\w./-]*", text) else json.dumps(text, ensure_ascii=False)
