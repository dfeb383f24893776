"""What a stage is: one word of `use:`, its options, and what it makes of its inputs. A leaf for all that make files.

`inputs` maps the names in the recipe's `from:` to bundles (forecasts, in check and forecast, of what is not built
yet). `out` is an empty folder; every file the stage makes goes there, under its final name.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from convert.bundle import Bundle, Role
from convert.distribution import install_command
from convert.errors import InputError, Problem
from convert.needs import Needs
from convert.progress import Progress

if TYPE_CHECKING:  # pydantic, which listing the stages does not need
    from convert.options import Options

Inputs = Mapping[str, Bundle]
TensorType = tuple[str, str, str, str]  # file, tensor, type, the rule that picked it
O = TypeVar("O", bound="Options")  # noqa: E741 - the options of one stage


class Stage(ABC, Generic[O]):
    """One word a recipe can say in `use:`. The class's docstring is what `convert stages` prints of it."""

    NAME: ClassVar[str]
    VERSION: ClassVar[int]  # raise it when the same inputs would give other bytes
    Options: type[O]
    TOOLS: ClassVar[tuple[str, ...]] = ()  # distributions whose versions are part of the key: ("gguf", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {}  # module that must be importable -> extra that brings it

    @abstractmethod
    def check(self, options: O, inputs: Inputs) -> list[Problem]:
        """What keeps the stage from running: reads headers only, never weights; never raises for bad input."""

    @abstractmethod
    def forecast(self, options: O, inputs: Inputs) -> Bundle:
        """The bundle `run` will return, with predicted sizes and no hashes."""

    @abstractmethod
    def run(self, options: O, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Make the files in `out`. Raises ConvertError for what is wrong with the input."""

    def reads(self, options: O) -> list[Path]:
        """The files outside the inputs whose content is part of the key: those that the options name."""
        from convert.options import named_paths

        return [path for path in named_paths(options) if path.is_file()]

    def tools(self, options: O) -> tuple[str, ...]:
        """The distributions whose versions are part of the key, where they depend on the options."""
        return self.TOOLS

    def versions(self, options: O) -> Mapping[str, str]:
        """What else decides the result and has a version, where it is no distribution of this environment."""
        return {}

    def fetched(self, options: O) -> bool:
        """Whether all it reads is on this machine; until then nothing that needs it can be planned."""
        return True

    def fetch(self, options: O, progress: Progress) -> None:
        """Bring what is not. Raises InputError where that fails."""

    def notes(self, options: O) -> list[str]:
        """What a user should know before the run, though it stops nothing."""
        return []

    def lacking(self, options: O, made: Bundle) -> list[str]:
        """What was asked for and is not in `made`, the stage's output on disk, with the reason, a line each."""
        return []

    def calibrates(self, options: O) -> list[Path]:
        """Files the result is fitted to, and should not be tested on."""
        return []

    def tests(self, options: O) -> list[Path]:
        """Files that outputs are measured on, and should not be calibrated on."""
        return []

    def tensor_types(self, options: O, inputs: Inputs) -> Iterable[TensorType]:
        """The type of every tensor and the rule that picked it, for `plan --explain-types`."""
        return ()

    def explain(self, options: O, inputs: Inputs) -> Iterable[str]:
        """Lines for `convert plan -v`."""
        return ()

    def work(self, options: O, inputs: Inputs, made: Bundle) -> int:
        """How much there is to do, in a unit of the stage's own, for the time that a plan states: bytes in and out."""
        read = {a.path: a.size for bundle in inputs.values() for a in bundle.of(Role.WEIGHTS)}
        written = {a.path: a.size for a in made.of(Role.WEIGHTS) if a.path not in read}
        return sum(read.values()) + sum(written.values())

    def needs(self, options: O, inputs: Inputs, made: Bundle) -> Needs:
        """What the stage takes of a machine; `made` is its forecast."""
        return Needs()

    @property
    def title(self) -> str:
        """The stage in one line."""
        return (type(self).__doc__ or "").splitlines()[0]


def missing_packages(stage: Stage[Options], name: str) -> list[Problem]:
    """What a stage needs and this Python does not have; `name` is what to call the stage."""
    missing = [module for module in stage.NEEDS if importlib.util.find_spec(module) is None]
    extras = sorted({stage.NEEDS[module] for module in missing})
    if not missing:
        return []
    got = f"stage '{name}' needs {', '.join(missing)}, not installed"
    return [Problem(name, got, "", install_command(*extras))]


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
        remedy = "set `from:` to source, or to a stage that makes a checkpoint"
        remedy = "leave `stream: true` out: it takes files that are here" if other == ["streamed"] else remedy
        raise InputError(name, f"stage '{stage}' gives {', '.join(other)} weights", "a safetensors checkpoint", remedy)
    return source
