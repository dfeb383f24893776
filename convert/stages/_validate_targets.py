"""What a validation makes a row of its report of: every output that can be run, and the files that belong to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convert.bundle import Artifact, Bundle, Role

SOURCE = "source"
FORMATS = ("gguf", "onnx", "onnx-genai", "tensorrt", "gptq", "awq", "fp8")  # what a row of the report is made for
EVERYTHING = "*"
SHARED = "shared"  # the type of a checkpoint's own files, linked beside the graphs that read them
_PARTS = {  # the other files of an output
    "onnx": "onnx-part",
    "onnx-genai": "onnx-part",
    "tensorrt": "tensorrt-part",
    "gptq": "gptq-part",
    "awq": "awq-part",
    "fp8": "fp8-part",
}
_WHOLE = ("gptq", "awq", "fp8")  # checkpoints: a vision tower lies among the weights, as it was
_TEXT_ONLY = {"onnx-genai": "this format holds the text decoder alone"}


@dataclass(frozen=True)
class Target:
    """One row of the report."""

    stage: str
    weights: Artifact  # the file that runtimes are given
    later: tuple[Artifact, ...] = ()  # the other files of the weights
    projector: Artifact | None = None
    projector_later: tuple[Artifact, ...] = ()
    on: str = ""  # the runtime's name in `also_on`, where it is not the format's own
    label: str = ""  # what it is called where people read; no two are alike
    not_built: str = ""  # why, where its files may not be looked at: sizes are forecasts then

    @property
    def files(self) -> tuple[Artifact, ...]:
        """Every file of the row, the one that runtimes are given first."""
        eyes = () if self.projector is None else (self.projector, *self.projector_later)
        return (self.weights, *self.later, *eyes)

    @property
    def weights_size(self) -> int:
        return _size(self.weights, self.later)

    @property
    def projector_size(self) -> int:
        return 0 if self.projector is None else _size(self.projector, self.projector_later)

    @property
    def shares(self) -> bool:
        """Whether the checkpoint's own files are counted in, a vision tower with them."""
        return any(file.type == SHARED for file in self.later)

    @property
    def text_only(self) -> str:
        """Why nobody asks for images of it, where its format has no place for them."""
        return _TEXT_ONLY.get(self.weights.format, "")

    @property
    def names(self) -> tuple[str, ...]:
        """The names a recipe may address it by, the least exact first."""
        type_ = self.weights.type
        names = (EVERYTHING, self.stage, type_, f"{self.stage}/{type_}")
        return (*names, *(f"{name}@{self.on}" for name in names)) if self.on else names


def targets(inputs: Mapping[str, Bundle], also_on: Sequence[str] = ()) -> list[Target]:
    """Every output that can be run, in the recipe's order: a stage that hands another's on makes no second row.

    Behind each output of a format that a runtime of `also_on` runs too comes a row for that runtime.
    """
    found: dict[Path, Target] = {}
    for stage, bundle in inputs.items():
        if stage != SOURCE:
            for target in (*_gguf(stage, bundle), *_others(stage, bundle)):
                found.setdefault(target.weights.path, replace(target, not_built=bundle.not_built))
    rows = [row for target in found.values() for row in (target, *_again(target, also_on))]
    return _labelled(rows)


def _gguf(stage: str, bundle: Bundle) -> Iterator[Target]:
    from convert.gguf.split import is_later_shard, shard_names

    files = {a.path: a for a in bundle.of(Role.WEIGHTS) if a.format == "gguf"}
    projector = next((a for a in bundle.of(Role.PROJECTOR) if a.format == "gguf"), None)
    for path, weights in files.items():
        if not is_later_shard(path.name):
            shards = (path.with_name(name) for name in shard_names(path.name)[1:])
            yield Target(stage, weights, tuple(files[shard] for shard in shards if shard in files), projector)


def _others(stage: str, bundle: Bundle) -> Iterator[Target]:
    """Outputs of several files, which say by their kind to which type they belong."""
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format in _PARTS:
            projector = next((a for a in bundle.of(Role.PROJECTOR) if a.kind == weights.kind), None)
            if weights.format in _WHOLE and bundle.of(Role.PREPROCESSOR):
                projector = replace(weights, kind=weights.format, size=0)  # the same file, counted once
            parts, eyes = (_parts(bundle.of(role), weights) for role in (Role.WEIGHTS, Role.PROJECTOR))
            yield Target(stage, weights, parts, projector, eyes)


def _parts(files: Sequence[Artifact], weights: Artifact) -> tuple[Artifact, ...]:
    """The files that go with an output's graph: its own, and the checkpoint's where it keeps no data of its own."""
    kind = _PARTS[weights.format]
    own = tuple(a for a in files if a.kind == f"{kind}/{weights.type}")
    data = any(a.path.name.startswith(weights.path.name) for a in own)
    shared = () if data else tuple(a for a in files if a.kind == f"{kind}/{SHARED}")
    return (*own, *shared)


def _again(target: Target, also_on: Sequence[str]) -> Iterator[Target]:
    from validate import runtimes

    for name in also_on:
        if target.weights.format in runtimes.load(name).ALSO_RUNS:
            yield replace(target, on=name)


def _labelled(rows: Sequence[Target]) -> list[Target]:
    """The rows with labels: a GGUF file's name says all, `model.onnx` says nothing, the stage and the type do."""
    plain = [_plain_label(row) for row in rows]
    often = Counter(plain)
    exact = [
        label if often[label] == 1 else f"{row.stage}/{row.weights.path.name}" + (f"@{row.on}" if row.on else "")
        for row, label in zip(rows, plain, strict=True)
    ]
    return [replace(row, label=label) for row, label in zip(rows, exact, strict=True)]


def _plain_label(row: Target) -> str:
    name = row.weights.path.name if row.weights.format == "gguf" else f"{row.stage}/{row.weights.type}"
    return f"{name}@{row.on}" if row.on else name


def _size(first: Artifact, later: Sequence[Artifact]) -> int:
    return first.size + sum(file.size for file in later)
