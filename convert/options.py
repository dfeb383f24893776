"""What a stage's options are made of. A leaf; the only place where stages meet pydantic."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic.fields import FieldInfo


class Options(BaseModel):
    """The words a stage understands. Subclass it in the stage's module under the same name."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def words_of(options: type[BaseModel]) -> dict[str, FieldInfo]:
    """Each word that a recipe may say -> what is known of it; `as` is no name that Python has."""
    return {info.alias or name: info for name, info in options.model_fields.items()}


def _from_recipe(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    found = path if folder is None else Path(folder) / path.expanduser()
    with contextlib.suppress(OSError):  # who reads it says what else is wrong with it
        mode = found.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path} is a pipe or a device, not a file or a folder")
    return found


RecipePath = Annotated[Path, AfterValidator(_from_recipe)]
"""A file or folder named in a recipe: relative to the recipe's own folder, not to where the command is run."""


def named_paths(value: object) -> Iterator[Path]:
    """Every path an options object names, at any depth; the plan hashes what they hold into the step's key."""
    if isinstance(value, Path):
        yield value
    elif isinstance(value, BaseModel):
        for _, inner in value:
            yield from named_paths(inner)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from named_paths(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from named_paths(inner)
