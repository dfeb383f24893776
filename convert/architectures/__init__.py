"""One file per model family; adding a family is adding a file here.

A family module declares FAMILY = Family(...): its classes in config.json, the table of its tensors as a GraphSpec for a
config, that of its vision tower, how other writers call the same tensors, and how it is cut into graphs. What each
tensor is for follows from the table (_roles.py); every format's `supports` reads that.

A module whose name starts with an underscore is not a family.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from convert.architectures._family import ANSWERS as ANSWERS
from convert.architectures._family import EMBEDDINGS as EMBEDDINGS
from convert.architectures._family import SCORES as SCORES
from convert.architectures._family import TASK_GRAPH as TASK_GRAPH
from convert.architectures._family import TEXT as TEXT
from convert.architectures._family import TEXT_GRAPH as TEXT_GRAPH
from convert.architectures._family import Family as Family
from convert.architectures._family import Roles as Roles
from convert.architectures._index import Entry as Entry
from convert.architectures._index import read_entry
from convert.architectures._roles import DENSE as DENSE
from convert.architectures._roles import EXPERTS as EXPERTS
from convert.architectures._roles import LINEARS as LINEARS
from convert.architectures._roles import VISION as VISION
from convert.architectures._roles import TensorRole as TensorRole
from convert.architectures._roles import in_words as in_words
from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.model_types import CLASS_OF, class_of
from convert.source.untrusted import shown

LONGEST_NAME = 80
STEM = 3  # letters that relatives begin with
NEAREST = 3  # families that a message names
LIST = "`convert families` lists all"


def names() -> list[str]:
    """Every family, in order."""
    return list(_names())


@functools.cache  # a checkpoint asks often, and the folder does not change under a process
def _names() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def load(name: str) -> Family:
    """The family called `name`."""
    family: Family = importlib.import_module(f"{__name__}.{name}").FAMILY
    return family


def families() -> list[Family]:
    """Every family, in the order of their names."""
    return [load(name) for name in names()]


def listed() -> list[Entry]:
    """What every family says of itself, in the order of their names; hardly one is imported for that."""
    (folder,) = __path__
    return [read_entry(Path(folder) / f"{name}.py") or _entry(load(name)) for name in names()]


def _entry(family: Family) -> Entry:
    return Entry(family.name, family.title, family.classes)


@functools.cache
def served() -> Mapping[str, str]:
    """As `known`, without importing the families."""
    return {name: entry.name for entry in listed() for name in entry.classes}


def known() -> dict[str, str]:
    """Class name in config.json -> family."""
    return {architecture: family.name for family in families() for architecture in family.classes}


def find(config: JsonObject) -> Family:
    """The family that serves a checkpoint's config. Raises InputError, with the nearest by name, when none does."""
    classes = served()
    kind, first = config.get("model_type"), class_of(config)
    if isinstance(first, str) and first in classes:
        return load(classes[first])
    if first is None:
        raise _no_class(kind)
    which = f"model_type {shown(kind, 60)} ({_plain(first)})" if kind else f"architecture {shown(first)}"
    raise InputError("config.json", f"not supported: {which}", remedy=_remedy(str(first), classes))


def roles(config: JsonObject, tensors: Iterable[str]) -> Roles:
    """What each of a checkpoint's tensors is for, by the names it has there, whoever wrote it.

    Raises ConvertError where no family serves the config, or no table can be made of it.
    """
    return find(config).roles(config, tensors)


def _no_class(kind: object) -> InputError:
    """What to say of a config that names no class, and whose model_type does not say which it is."""
    near = difflib.get_close_matches(kind, CLASS_OF, NEAREST, 0.6) if isinstance(kind, str) else []
    listed = ", ".join(f'["{CLASS_OF[name]}"] (model_type {name})' for name in near)
    said = f"model_type {shown(kind, 60)} is none that names one" if kind else "there is no model_type either"
    remedy = (
        f'add "architectures", the class the model was saved from; nearest: {listed}'
        if listed
        else ('add "architectures", the class the model was saved from, as ["LlamaForCausalLM"]')
    )
    return InputError(
        "config.json",
        f"architectures names no model class, and {said}",
        "a class that is supported",
        f"{remedy}; {LIST}",
    )


def _remedy(first: str, classes: Mapping[str, str]) -> str:
    """The families whose names are nearest, and what another takes."""
    alike = [name for name in classes if name[:STEM].lower() == first[:STEM].lower()]  # Mamba is no Llama
    close = difflib.get_close_matches(first, alike, NEAREST, 0.6)
    listed = ", ".join(f"{classes[name]} ({name})" for name in close)
    nearest = f"nearest by name: {listed}; " if close else ""
    return f"{nearest}{LIST}, `convert inspect` says what its tensors are like; to add one: docs/extend/add-a-family.md"


def _plain(name: object) -> str:
    """A class name without quotes where it is one."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= LONGEST_NAME else shown(name)
