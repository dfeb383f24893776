"""What a batch.yaml may say, and the limits of a batch.

recipes: [gguf.yaml, onnx.yaml]
models:
  - microsoft/Fara-7B@main                          # a folder, a pattern of folders, or a model of the hub
  - {list: models.csv}                              # a line a model, with its own variables
  - {path: ../big, name: Big, variables: {type: Q4_K_M}}
exclude: [{model: "tiny-*", recipe: onnx}]
limits: {memory: 48GB, disk: 500GB, downloads: 2}
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictFloat, StrictInt, StrictStr

from convert.options import Options, RecipePath

UNITS = {"": 1, "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
Value = Scalar | list[Scalar]
"""What a variable may stand for: it takes the place of a whole value, or of a part of a text."""

Keep = Literal["all", "outputs", "report"]
Order = Literal["listed", "small-first", "large-first"]


def bytes_of(text: object) -> object:
    """The number of bytes that `16GB` or `500 MB` says; anything else as it is."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kMGT]?B?)\s*", text) if isinstance(text, str) else None
    if found is None:
        if isinstance(text, str):
            raise ValueError(f"{text!r} is no size: write 500MB, 16GB or 2TB")
        return text
    unit = found[2] if found[2].endswith("B") or not found[2] else f"{found[2]}B"
    return int(float(found[1]) * UNITS[unit])


Bytes = Annotated[int, BeforeValidator(bytes_of), Field(gt=0)]


class Limits(Options):
    """What a batch may take of the machine."""

    jobs: int | None = Field(default=None, ge=1, le=256, description="models at a time; one a core when left out")
    cores: int | None = Field(default=None, ge=1, description="cores that steps may keep busy; all when left out")
    memory: Bytes | None = Field(
        default=None, description="of all steps at a time: 48GB; most of what is free when left out"
    )
    disk: Bytes | None = Field(default=None, description="of what is being made at a time: 500GB; all that is free")
    downloads: int = Field(default=2, ge=1, le=16, description="models that are downloaded at a time")
    accelerators: int = Field(default=1, ge=1, le=64, description="steps at a time that use one")
    retries: int = Field(
        default=3, ge=0, le=20, description="tries more after what may pass by itself: network, memory"
    )


class ModelEntry(Options):
    """One model, or a list of them."""

    path: RecipePath | None = Field(default=None, description="the folder of a checkpoint, or a GGUF file")
    hub: str | None = Field(default=None, description="a model of the hub: org/name")
    revision: str | None = Field(default=None, description="commit, tag or branch of the hub model")
    list: RecipePath | None = Field(default=None, description="a list of models: .txt, .csv or .jsonl")
    name: str | None = Field(default=None, description="what to call it; the folder's or the hub's name when left out")
    variables: dict[str, Value] = Field(default={}, description="what {{name}} stands for in the recipe")


class Pair(Options):
    """A pair of model and recipe, by patterns."""

    model: str = Field(default="*", description="a name of a model, or a pattern")
    recipe: str = Field(default="*", description="a recipe's file without .yaml, or a pattern")


class BatchFile(Options):
    """A batch.yaml."""

    models: list[str | ModelEntry] = Field(min_length=1, description="what to convert")
    recipes: list[RecipePath] = Field(min_length=1, description="what to make of each")
    name: str | None = Field(default=None, description="the output folder of each: {{model.name}}-{{recipe.name}}")
    variables: dict[str, Value] = Field(default={}, description="variables of all models; a model's own go first")
    only: list[Pair] = Field(default=[], description="the pairs to make; all when left out")
    include: list[Pair] = Field(default=[], description="pairs to make in any case")
    exclude: list[Pair] = Field(default=[], description="pairs to leave out")
    limits: Limits = Field(default=Limits(), description="what the batch may take of the machine")
    keep: Keep = Field(
        default="all", description="outputs: downloaded sources go; report: outputs go too, once measured"
    )
    order: Order = Field(default="listed", description="which models come first")
