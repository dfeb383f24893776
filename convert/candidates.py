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

from convert.errors import Problem, RecipeError
from convert.formats.gguf.existing import models_in
from convert.json_types import JsonDict
from convert.recipe import RESERVED, Recipe, recipe_of

COMMAND_LINE = Path("command line")  # where the words stand that errors are about
SUFFIXES = (".gguf", ".onnx")
WHOLE = ("*.safetensors", "*.onnx", "onnx/*.onnx")  # what a folder has that is taken as a whole


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
    candidates = each_once(asked.candidates, asked.projector)
    if asked.projector is not None and not any(beside for _, beside in candidates):
        got, wanted = "--projector, and no candidate is a GGUF file", "a model that it goes with"
        raise RecipeError(Problem(str(COMMAND_LINE), got, wanted, "leave it out: folders have their own vision tower"))
    names = stage_names([path for path, _ in candidates])
    stages = {name: _stage(path, beside) for name, (path, beside) in zip(names, candidates, strict=True)}
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


def each_once(paths: Sequence[Path], projector: Path | None) -> list[tuple[Path, Path | None]]:
    """Every candidate, one named twice once, with the projector that goes with it: `projector` with GGUF files.

    A folder of GGUF files is its models, each with the folder's own projector where there is one and none is named.
    """
    found: dict[Path, tuple[Path, Path | None]] = {}
    for path in paths:
        models, beside = ([], []) if _has_others(path) else models_in(path)
        own = projector or (beside[0] if len(beside) == 1 else None)
        for model, eyes in [(model, own) for model in models] or [(path, projector if _is_gguf(path) else None)]:
            found.setdefault(model.resolve(), (model, eyes))
    return list(found.values())


def _has_others(path: Path) -> bool:
    """Whether `path` is no folder, or one that is taken as a whole: of a checkpoint, of graphs, of engines."""
    return not path.is_dir() or any(any(path.glob(pattern)) for pattern in WHOLE)


def _is_gguf(path: Path) -> bool:
    return not path.is_dir() and path.suffix == ".gguf"


def _stage(path: Path, projector: Path | None) -> JsonDict:
    beside = {} if projector is None else {"projector": str(projector)}
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
