"""What is said of a format, in the one place where it is said: the Format of convert/formats/<name>/__init__.py.

All that has to know which formats there are asks the registry (convert/registry.py): what is validated, how the report
draws it, what `convert inspect` reads, what a recipe can say, what a release consists of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Artifact, Bundle, Role
from convert.json_types import JsonObject
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts, Hyperparameter, TensorError, TensorPair
    from convert.source.checkpoint import Checkpoint

SOURCE = "source"
COMPANIONS = (*(Role.CONFIG, Role.TOKENIZER, Role.CHAT_TEMPLATE, Role.PREPROCESSOR, Role.GENERATION, Role.SENTENCES),)
EVERYTHING = "*"


@dataclass(frozen=True)
class Kind:
    """One sort of output of a format, as artifacts name it before the slash: `gguf`, `onnx-genai`, `awq`."""

    name: str
    title: str
    mark: Mark
    runtimes: tuple[str, ...] = ()  # files of validate/runtimes/ that run it; the first one is its runtime
    text_only: str = ""  # why nobody asks for images of it, where it has no place for them
    note: str = ""  # what a reader of the report should know of all its files


@dataclass(frozen=True)
class Output:
    """A model that a runtime can be given, and every file that belongs to it: one row of the report."""

    stage: str
    weights: Artifact  # the file that runtimes are given
    parts: tuple[Artifact, ...] = ()  # the other files of the weights
    projector: Artifact | None = None
    projector_parts: tuple[Artifact, ...] = ()
    on: str = ""  # the runtime's name in `also_on`, where it is not the format's own
    label: str = ""  # what it is called where people read; no two are alike
    not_built: str = ""  # why, where its files may not be looked at: sizes are forecasts then
    named_by_file: bool = False  # its file's name says what it is; else the stage's and the type do
    projector_apart: bool = False  # the projector is a file of its own, that goes with every type
    widened: bool = False  # runtimes on a CPU hold its 16-bit weights as float32
    shares_checkpoint: bool = False  # reads the checkpoint's own files, a vision tower in them
    text_only: str = ""  # why nobody asks for images of it
    fit: Artifact | None = None  # how its types were chosen for its size

    @property
    def files(self) -> tuple[Artifact, ...]:
        """Every file of the row, the one that runtimes are given first."""
        projector = () if self.projector is None else (self.projector, *self.projector_parts)
        return (self.weights, *self.parts, *projector)

    @property
    def weights_size(self) -> int:
        return self.weights.size + sum(file.size for file in self.parts)

    @property
    def projector_size(self) -> int:
        return 0 if self.projector is None else self.projector.size + sum(f.size for f in self.projector_parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The names a recipe may address it by, the least exact first."""
        type_ = self.weights.type
        names = (EVERYTHING, self.stage, type_, f"{self.stage}/{type_}")
        return (*names, *(f"{name}@{self.on}" for name in names)) if self.on else names


@dataclass(frozen=True)
class Asked:
    """What `convert inspect CHECKPOINT` asks a stage: what it would make of the checkpoint, with usual options."""

    stage: str
    options: JsonObject = field(default_factory=dict)
    words: str = ""  # of the options, where a stage is asked twice
    takes: str = SOURCE
    slow: bool = False  # imports torch and transformers to answer: seconds


@dataclass(frozen=True)
class Sample:
    """What such questions are made with: a text of ours, which says nothing of the result, and a window that fits."""

    text: str
    window: int
    every: bool = False  # all types there are, not the usual ones


@dataclass(frozen=True)
class Support:
    """Whether a format can take a checkpoint; `missing` says why not, and what would have to be there."""

    missing: tuple[str, ...] = ()

    @property
    def yes(self) -> bool:
        return not self.missing


@dataclass(frozen=True)
class Found:
    """An output that somebody else made, as the stages of this project hand theirs on. `words` say what it is."""

    weights: tuple[Artifact, ...]
    words: str
    projector: tuple[Artifact, ...] = ()
    companions: Mapping[Role, tuple[Artifact, ...]] | None = None  # of a folder that has its own

    @property
    def paths(self) -> list[Path]:
        """Every file of it."""
        beside = [a for files in (self.companions or {}).values() for a in files]
        return list(dict.fromkeys(a.path for a in (*self.weights, *self.projector, *beside)))


@dataclass(frozen=True)
class RecipeEntry:
    """An entry of `stages:` as `convert init` writes it: YAML lines with comments, under `use:`."""

    name: str
    use: str
    purpose: str  # the comment above it
    options: str = ""
    takes: str = SOURCE
    wanted: str = ""  # what only the user can give ("a text to calibrate on"): the entry is written as comments then


@dataclass(frozen=True)
class Usage:
    """How a release is run on one runtime, for its card: what the runtime is called, and the commands.

    `{repository}` stands for the repository's id, `{name}` for its name, `{file}` for the file to take first and
    `{projector}` for the file of its projector; lines that name a projector are left out where there is none.
    """

    title: str
    text: str
    language: str = "sh"
    hub: bool = False  # makes sense for a repository on the hub alone


@dataclass(frozen=True)
class Release:
    """The repository that an output is published as: its name behind the model's, and path in it -> file here.

    Outputs with the same suffix share one. What travels with them in the bundle lies at the repository's top: all that
    is in one of these `roles`.
    """

    suffix: str
    files: Mapping[str, Path] = field(default_factory=dict)
    roles: tuple[Role, ...] = COMPANIONS
    library: str = ""  # who reads it, as the hub calls libraries: gguf, transformers, transformers.js
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True)
class Format:
    """All there is to say of a format. The functions import what is heavy when they are called."""

    name: str
    title: str
    kinds: tuple[Kind, ...]
    stages: Mapping[str, str]  # word of `use:` -> module:attribute of its Stage
    outputs: Callable[[str, Bundle], Iterable[Output]]  # of the stage called so
    supports: Callable[[Checkpoint], Support]
    inspect: Callable[
        [Path, bytes], Facts | None
    ]  # from the header alone; None where the first bytes are no file of it
    recognize: Callable[[Path, Path | None], Found | None] = lambda path, projector: (
        None
    )  # what others made: existing.py
    rank: int = 100  # where people expect it in a list: lower ones first
    previews: Callable[[Sample], Iterable[Asked]] = lambda sample: ()  # for `convert inspect CHECKPOINT`
    tensor_errors: Callable[[Path, Path, int], Iterable[TensorError]] = lambda path, source, values: ()
    # what validation compares of an output that lies there, given its main file and the source's folder
    tensor_pairs: Callable[[Output, Path], Iterable[TensorPair]] = lambda output, source: ()
    hyperparameters: Callable[[Output, Path], Iterable[Hyperparameter]] = lambda output, source: ()
    guesses: bool = False  # `recognize` tries files that nothing marks as its own: it is asked last
    magic: bytes = b""  # the first bytes of its files, where they say what they are
    # as `supports`, of what a family's models usually have: for `convert families`
    supports_family: Callable[[Family], Support] = lambda family: Support(("it does not say",))
    takes_projector: bool = False  # `recognize` takes one beside the model
    wanted: str = ""  # what `recognize` takes, in words: "a GGUF file"
    recipe: tuple[RecipeEntry, ...] = ()  # for `convert init`
    release: Callable[[Output, Path], Release] = lambda output, folder: plain_release(
        output, folder, f"-{output.weights.type}"
    )

    def kind(self, name: str) -> Kind:
        """The kind called so."""
        return next(kind for kind in self.kinds if kind.name == name)


def plain_release(output: Output, folder: Path, suffix: str) -> Release:
    """The output's files as they lie below `folder`, in a repository called so."""
    files = {f.path.relative_to(folder).as_posix(): f.path for f in output.files}
    return Release(suffix, files)


def parts_of(files: Iterable[Artifact], weights: Artifact, part: str) -> tuple[Artifact, ...]:
    """The files of kind `part` that go with an output's main file, or the checkpoint's where it has none."""
    files = tuple(files)
    own = tuple(a for a in files if a.kind == f"{part}/{weights.type}")
    data = any(a.path.name.startswith(weights.path.name) for a in own)
    return (*own, *(() if data else (a for a in files if a.kind == f"{part}/{SHARED}")))


SHARED = "shared"  # the type of a checkpoint's own files, linked beside the graphs that read them
