"""One file per model family; adding a family is adding a file here.

A family module has

    CLASSES: tuple[str, ...]          the names in config.json's `architectures` it serves
    text(config) -> GraphSpec              the language model's GGUF file; raises PlanError for a config it cannot take

and may have

    RENAMES: tuple[tuple[str, str], ...]        other writers' beginnings of tensor names -> the ones in its tables
    vision(config, preprocessor) -> GraphSpec        the mmproj file of a model that sees
    VISION: str | tuple[str, ...]               how the names of its tensors start

A module whose name starts with an underscore is not a family.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from convert.errors import InputError
from convert.source.untrusted import shown

LONGEST_NAME = 80
STEM = 3  # letters that relatives begin with


def names() -> list[str]:
    """Every family, in order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The family module called `name`."""
    return importlib.import_module(f"{__name__}.{name}")


def known() -> dict[str, str]:
    """Class name in config.json -> family."""
    return {architecture: name for name in names() for architecture in load(name).CLASSES}


def find(config: Mapping[str, Any]) -> ModuleType:
    """The family that serves a checkpoint's config. Raises InputError, with the families there are, when none does."""
    named = config.get("architectures")
    families = known()
    first = named[0] if isinstance(named, list) and named else None
    if isinstance(first, str) and first in families:
        return load(families[first])
    if first is None:
        raise InputError("config.json", "architectures names no model class", f"one of {', '.join(names())}")
    kind = config.get("model_type")
    which = f"model_type {shown(kind, 60)} ({_plain(first)})" if kind else f"architecture {shown(first)}"
    got = f"not supported: {which}; supported: {', '.join(names())}"
    raise InputError("config.json", got, remedy=_remedy(str(first), families))


def _remedy(first: str, families: Mapping[str, str]) -> str:
    """The family whose name is nearest, and what another takes."""
    alike = [name for name in families if name[:STEM].lower() == first[:STEM].lower()]  # Mamba is no Llama
    close = difflib.get_close_matches(first, alike, 1, 0.6)
    nearest = f"the nearest by name is {families[close[0]]} ({close[0]}); " if close else ""
    return f"{nearest}to add one is a file in convert/architectures, and `convert inspect` says what is like it"


def _plain(name: object) -> str:
    """A class name without quotes where it is one."""
    return name if isinstance(name, str) and name.isidentifier() and len(name) <= LONGEST_NAME else shown(name)
