"""Files that somebody else made, and the checkpoint they stand for -> a recipe that validates them, and no more.

So they go through the same plan, lock, cache and report as outputs of ours.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from convert.json_types import JsonDict
from convert.recipe import RESERVED, Recipe, recipe_of

COMMAND_LINE = Path("command line")  # where the words stand that errors are about
SUFFIXES = (".gguf", ".onnx")


@dataclass(frozen=True)
class CandidateRequest:
    """What `convert validate --candidate …` was asked. Paths are relative to the folder the command is run in."""

    candidates: Sequence[Path]
    reference: Path
    projector: Path | None = None
    texts: Sequence[Path] = ()
    clicks: Path | None = None
    tokens: int | Literal["auto"] | None = None
    preset: str | None = None
    limits: Mapping[str, float] | None = None
    name: str = ""  # of the folder below `out`; the first candidate's when left out


def recipe_for(asked: CandidateRequest) -> Recipe:
    """The recipe, as if its words stood in a file. Raises RecipeError."""
    names = stage_names(asked.candidates)
    stages = {name: _stage(path, asked.projector) for name, path in zip(names, asked.candidates, strict=True)}
    gates = {**({"preset": asked.preset} if asked.preset else {}), **(asked.limits or {})}
    validate = {
        "text": [str(path) for path in asked.texts],
        "clicks": None if asked.clicks is None else str(asked.clicks),
        "tokens": asked.tokens,
        "limits": {"*": gates} if gates else {},
    }
    words = {
        "name": asked.name or names[0],
        "model": {"path": str(asked.reference)},
        "stages": stages,
        "validate": {word: value for word, value in validate.items() if value},
    }
    return recipe_of(words, COMMAND_LINE)


def _stage(path: Path, projector: Path | None) -> JsonDict:
    """A folder has its own vision tower; a projector is for files."""
    beside = {} if projector is None or path.is_dir() else {"projector": str(projector)}
    return {"use": "existing", "path": str(path), **beside}


def stage_names(paths: Sequence[Path]) -> list[str]:
    """A name for each, as folders may have, no two alike."""
    names: list[str] = []
    for path in paths:
        plain = Path(os.path.normpath(path.absolute())).name
        for suffix in SUFFIXES:
            plain = plain.removesuffix(suffix)
        start = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:90].rstrip(".") or "candidate"
        taken = {*names, *RESERVED}
        alike = (f"{start}-{number}" for number in range(2, len(paths) + 3))
        free = start not in taken and not start.endswith((".partial", ".old"))
        names.append(start if free else next(name for name in alike if name not in taken))
    return names
