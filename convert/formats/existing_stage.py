"""A file or folder that somebody else made: it is validated like an output of ours, beside them in one table.

What it is follows from its content. Nothing is copied and nothing is changed: the bundle names the files where they
lie, as the stages that make such files do.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from convert.bundle import Bundle
from convert.errors import InputError, Problem
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, only

if TYPE_CHECKING:
    from convert.formats.base import Found


class ExistingOptions(Options):
    """Where it lies."""

    path: RecipePath = Field(
        description="a GGUF file (the first of a split one), an ONNX graph, or the folder of a checkpoint "
        "(safetensors, GPTQ, AWQ or FP8), of ONNX graphs, or of onnxruntime-genai"
    )
    projector: RecipePath | None = Field(None, description="the projector (mmproj) that belongs to a GGUF file")


def _found(options: ExistingOptions) -> Found:
    """Looked at once, unless a file beside it changes."""
    path = options.path.absolute()
    beside = options.projector.absolute() if options.projector is not None else None
    return _look(path, beside, _stamps(path, beside))


@functools.lru_cache(maxsize=64)
def _look(path: Path, projector: Path | None, stamps: tuple[object, ...]) -> Found:
    from convert import registry
    from convert.formats.existing import find

    return find(path, projector, registry.formats())


def _stamps(path: Path, projector: Path | None) -> tuple[object, ...]:
    """What changes when a file does: a split file's and a graph's others lie beside it."""
    home = path if path.is_dir() else path.parent
    try:
        paths = sorted([*home.iterdir(), *home.glob("onnx/*")])
    except OSError:
        paths = []
    named = [p for p in (*paths, path, projector) if p is not None and p.exists()]
    return tuple((str(p), status.st_mtime_ns, status.st_size) for p in named for status in [p.stat()])


class ExistingStage(Stage[ExistingOptions]):
    """A file or folder that somebody else made: it is validated like an output of ours, beside them in one table."""

    NAME = "existing"
    VERSION = 1
    Options = ExistingOptions

    def reads(self, options: ExistingOptions) -> list[Path]:
        """Every file of it. Raises InputError."""
        return _found(options).paths

    def check(self, options: ExistingOptions, inputs: Inputs) -> list[Problem]:
        """What is wrong with it, by its headers."""
        if len(inputs) != 1:
            return [
                Problem("existing", f"takes from {len(inputs)} stages: {', '.join(inputs)}", "one", "leave out `from:`")
            ]
        try:
            _found(options)
        except InputError as error:
            return [error.problem]
        return []

    def forecast(self, options: ExistingOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return: files where they are, not hashed yet."""
        found = _found(options)
        beside = {role.value: files for role, files in (found.companions or {}).items()}
        return only(inputs).with_(weights=found.weights, projector=found.projector, imatrix=(), report=(), **beside)

    def explain(self, options: ExistingOptions, inputs: Inputs) -> list[str]:
        """What it was taken for, for `convert plan -v`."""
        return [f"{options.path.name}: {_found(options).words}"]

    def run(self, options: ExistingOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The bundle of what lies there; nothing is written."""
        progress.note(f"{options.path}: {_found(options).words}")
        return self.forecast(options, inputs)


STAGE = ExistingStage()
