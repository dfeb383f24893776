"""One module per word a recipe can say in `use:`; adding a stage is adding a file here.

A stage module has

    VERSION: int            raise it when the same inputs would give other bytes
    TOOLS: tuple[str, ...]  distributions whose versions are part of the key: ("gguf", "numpy")
    NEEDS: dict[str, str]   module that must be importable -> extra that brings it: {"gguf": "gguf"}
    Options                 a subclass of convert.options.Options
    check(options, inputs) -> list[Problem]     reads headers only, never weights; never raises for bad input
    forecast(options, inputs) -> Bundle         the bundle `run` will return, with predicted sizes, no hashes
    run(options, inputs, out, progress) -> Bundle

and may have

    reads(options) -> list[Path]                files whose content is part of the key; where it is not there, the
                                                files that the options name
    tools(options) -> tuple[str, ...]           TOOLS, where they depend on the options
    locate(options, *, download, progress) -> Path | None
                                                where files lie that may have to be fetched first; None while they do
    notes(options) -> list[str]                 what a user should know before the run, though it stops nothing
    calibrates(options) -> list[Path]           files the result is fitted to, and should not be tested on
    tensor_types(options, inputs)               (file, tensor, type, rule) of every tensor, for `plan --explain-types`
    explain(options, inputs) -> list[str]       lines for `convert plan -v`

`inputs` maps the names in the recipe's `from:` to bundles (forecasts, in check and forecast, of what is not built
yet). `out` is an empty folder; every file the stage makes goes there, under its final name. A module whose name
starts with an underscore is not a stage.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from convert.bundle import Bundle, Role
from convert.distribution import install_command
from convert.errors import InputError, Problem
from convert.progress import Progress

Inputs = Mapping[str, Bundle]


class Stage(Protocol):
    """The shape of a stage module."""

    __name__: str
    __doc__: str | None
    VERSION: int
    TOOLS: tuple[str, ...]
    NEEDS: Mapping[str, str]
    Options: type[Any]

    def check(self, options: Any, inputs: Inputs) -> list[Problem]: ...
    def forecast(self, options: Any, inputs: Inputs) -> Bundle: ...
    def run(self, options: Any, inputs: Inputs, out: Path, progress: Progress) -> Bundle: ...


def names() -> list[str]:
    """Every word `use:` understands, in order."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> Stage:
    """The stage module called `name`; the caller has looked in `names()`."""
    return cast(Stage, importlib.import_module(f"{__name__}.{name}"))


def missing_packages(stage: Stage, name: str) -> list[Problem]:
    """What a stage needs and this Python does not have; `name` is what to call the stage."""
    missing = [module for module in stage.NEEDS if importlib.util.find_spec(module) is None]
    extras = sorted({stage.NEEDS[module] for module in missing})
    if not missing:
        return []
    got = f"stage '{name}' needs {', '.join(missing)}, not installed"
    return [Problem(name, got, "", install_command(*extras))]


def reads(stage: Stage, options: Any) -> list[Path]:
    """The files outside its inputs whose content decides what the stage makes."""
    own = getattr(stage, "reads", None)
    if own is not None:
        return list(own(options))
    from convert.options import named_paths

    return [path for path in named_paths(options) if path.is_file()]


def tools(stage: Stage, options: Any) -> tuple[str, ...]:
    """The distributions whose versions are part of the step's key."""
    own = getattr(stage, "tools", None)
    return tuple(own(options)) if own is not None else stage.TOOLS


def notes(stage: Stage, options: Any) -> list[str]:
    """What the stage wants to be known before a run."""
    own = getattr(stage, "notes", None)
    return list(own(options)) if own is not None else []


def calibrates(stage: Stage, options: Any) -> list[Path]:
    """The files that a stage fits its result to."""
    own = getattr(stage, "calibrates", None)
    return list(own(options)) if own is not None else []


def only(inputs: Inputs) -> Bundle:
    """The single input of a stage that takes exactly one."""
    (bundle,) = inputs.values()
    return bundle


def checkpoint(name: str, inputs: Inputs) -> Bundle:
    """The one input of stage `name`. Raises InputError for more than one, and for weights that are no checkpoint's."""
    if len(inputs) != 1:
        got = f"takes from {len(inputs)} stages: {', '.join(inputs)}"
        raise InputError(name, got, "one", "name one in `from:`")
    ((stage, source),) = inputs.items()
    if other := sorted({a.format for a in source.of(Role.WEIGHTS)} - {"safetensors"}):
        remedy = "take it `from:` source or a stage that makes one"
        raise InputError(name, f"stage '{stage}' gives {', '.join(other)} weights", "a checkpoint", remedy)
    return source
