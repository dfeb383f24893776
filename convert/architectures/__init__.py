"""One file per model family; adding a family is adding a file here.

A family module has

    CLASSES: tuple[str, ...]          the names in config.json's `architectures` it serves
    text(config) -> Part              the language model's GGUF file; raises PlanError for a config it cannot take

and may have

    RENAMES: tuple[tuple[str, str], ...]        other writers' beginnings of tensor names -> the ones in its tables
    vision(config, preprocessor) -> Part        the mmproj file of a model that sees
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
    """The family that serves a checkpoint's config. Raises InputError, listing the families, when none does."""
    named = config.get("architectures")
    families = known()
    first = named[0] if isinstance(named, list) and named else None
    if isinstance(first, str) and first in families:
        return load(families[first])
    if first is None:
        raise InputError("config.json", "architectures names no model class", f"one of {', '.join(names())}")
    kind = f" (model_type {str(config.get('model_type'))[:60]!r})" if config.get("model_type") else ""
    close = difflib.get_close_matches(str(first), families, 1, 0.8)
    remedy = f"did you mean {close[0]}?" if close else "add a file to convert/architectures to support another"
    got = f"architecture {str(first)[:80]!r}{kind} is not supported"
    raise InputError("config.json", got, f"one of {', '.join(names())}", remedy)
