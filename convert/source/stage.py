"""The checkpoint that everything is made from: a folder, or a model of the Hugging Face hub at a pinned revision.

Every recipe has this stage first, under the name `source`; the recipe's `model:` holds its options. Safetensors stay
where they are. Pickled weights are converted, into this stage's own folder, without running what is in them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import Discriminator, Field, Tag, model_validator

from convert.bundle import Artifact, Bundle, Model, Pending, Role
from convert.distribution import install_command
from convert.errors import InputError, Problem
from convert.gguf_shards import SHARD, is_later_shard, shard_names
from convert.options import Options, RecipePath
from convert.progress import Progress, Silent
from convert.source import checkpoint, companions, hub, mend, pickle_scan, pickled, remake, streamed
from convert.source.card import read_card
from convert.source.checkpoint import PICKLES
from convert.source.onnx_graph import read_graph
from convert.source.remake import Remade, artifact
from convert.source.remote import LIST, remote_of
from convert.source.untrusted import inside
from convert.stage import Inputs, Stage

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96)]
"""What may stand in a file name of every system."""


GGUF, ONNX = ".gguf", ".onnx"
BESIDE = {"preprocessor_config.json": Role.PREPROCESSOR, "config.json": Role.CONFIG}  # what goes with a graph
TYPE_IN_NAME = re.compile(r"[-.](F32|F16|BF16|I?Q\d\w*|TQ\d\w*|MXFP4\w*)$", re.IGNORECASE)


class AdapterOptions(Options):
    """A LoRA that is merged into the model."""

    path: RecipePath = Field(description="the folder of a PEFT adapter: adapter_config.json and its weights")
    scale: float = Field(1.0, ge=-100, le=100, description="what its change is multiplied with; 1 as it was trained")


def _one_or_several(value: object) -> str:
    return "none" if value is None else "several" if isinstance(value, list | tuple) else "one"


AdapterOption = Annotated[
    Annotated[None, Tag("none")]
    | Annotated[AdapterOptions, Tag("one")]
    | Annotated[list[AdapterOptions], Tag("several"), Field(min_length=1, max_length=64)],
    Discriminator(_one_or_several),
]


class SourceOptions(Options):
    """Which model, and what to call it."""

    path: RecipePath | None = Field(None, description="the folder of a Hugging Face checkpoint, or a GGUF or ONNX file")
    hub: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$",
        max_length=96,
        description="a model of the Hugging Face hub: microsoft/Fara-7B",
    )
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$",
        max_length=200,
        description="commit, tag or branch of the hub model; pin a commit, main moves",
    )
    stream: bool = Field(
        False,
        description="read the hub model's weights from there while they are converted to GGUF, and keep none",
    )
    name: Name | None = Field(
        None, description="the model's name in file names; the hub's or the folder's when left out"
    )
    adapter: AdapterOption = Field(
        None, description="{path, scale} of a PEFT LoRA that is merged into the model, or a list: one after the other"
    )
    as_: str | None = Field(
        None,
        alias="as",
        max_length=96,
        description="the family that a model of a class no family serves is converted as, where all its tensors fit",
    )
    strict: bool = Field(
        False, description="refuse what is else left out with a warning: special tokens past the vocabulary"
    )
    trust_remote_code: bool = Field(False, description="let the reference run Python code that the model brings")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("name the model by `path` (a folder) or by `hub` (org/name), one of them")
        if self.revision is not None and self.hub is None:
            raise ValueError("`revision` belongs to `hub`; a folder has none")
        if self.stream and self.hub is None:
            raise ValueError("`stream` belongs to `hub`; a folder is here already")
        return self

    @property
    def adapters(self) -> list[tuple[Path, float]]:
        """Folder and scale of each."""
        found = [self.adapter] if isinstance(self.adapter, AdapterOptions) else self.adapter or []
        return [(one.path.absolute(), one.scale) for one in found]


def remade(options: SourceOptions, folder: Path) -> Remade | None:
    """The checkpoint that this stage will write; None where it takes the files as they are. Raises InputError."""
    return remake.with_adapters(folder, options.adapters) if options.adapters else remake.gathered(folder)


def locate(options: SourceOptions, *, download: bool, progress: Progress) -> Path | None:
    """The checkpoint's folder; None when it is a hub model that is not in the cache and may not be downloaded.

    Raises InputError when a download was asked for and fails.
    """
    if options.hub is None:
        return options.path
    revision = options.revision or hub.DEFAULT_REVISION
    if options.stream:
        return (
            streamed.prepare(options.hub, revision, progress) if download else streamed.prepared(options.hub, revision)
        )
    if not download:
        return hub.cached(options.hub, revision)
    return hub.locate(options.hub, revision, download=True, progress=progress)


def gguf_file(options: SourceOptions) -> Path | None:
    """The GGUF file that is the source; None where that is a checkpoint."""
    return options.path.absolute() if options.path is not None and options.path.suffix == GGUF else None


def onnx_file(options: SourceOptions) -> Path | None:
    """The ONNX file that is the source; None where that is a checkpoint."""
    return options.path.absolute() if options.path is not None and options.path.suffix == ONNX else None


def _onnx_problems(options: SourceOptions, path: Path) -> list[Problem]:
    """What keeps such a file from being a source: broken, or with weights outside of its folder."""
    if not path.is_file():
        return [Problem(str(path), "is no file", "an ONNX file", "check the path")]
    if options.adapter is not None:
        remedy = "merge it into the checkpoint that the graph was made from"
        return [Problem(str(path), "is an ONNX file, into which no adapter is merged", "a checkpoint", remedy)]
    return _problems(lambda: _onnx_files(path))


def _onnx_files(path: Path) -> dict[Role, tuple[Artifact, ...]]:
    """The graph, the files its weights are in, and what lies beside it by name. Raises InputError."""
    graph = read_graph(path)
    weights = [Artifact(f"onnx/{graph.type}", path, path.stat().st_size)]
    weights += [Artifact(f"onnx-part/{graph.type}", file, file.stat().st_size) for file in graph.data]
    beside = {role: inside(path.parent, name) for name, role in BESIDE.items() if (path.parent / name).exists()}
    return {Role.WEIGHTS: tuple(weights), **{role: (artifact(file),) for role, file in beside.items()}}


def _onnx_bundle(options: SourceOptions, path: Path) -> Bundle:
    return Bundle(Model(options.name or safe(path.stem)), _onnx_files(path))


def _gguf_problems(options: SourceOptions, path: Path) -> list[Problem]:
    """What keeps such a file from being a source; what is in it the stages say that read it."""
    if is_later_shard(path.name):
        return [Problem(str(path), "is not the first of its files", shard_names(path.name)[0], "name that one")]
    if not path.is_file():
        return [Problem(str(path), "is no file", "a GGUF file", "check the path")]
    if problems := _problems(lambda: _gguf_files(path)):
        return problems
    if options.adapter is not None:
        remedy = "merge it into the checkpoint that the file was made from"
        return [Problem(str(path), "is a GGUF file, into which no adapter is merged", "a checkpoint", remedy)]
    return []


def _gguf_bundle(options: SourceOptions, path: Path) -> Bundle:
    shard = SHARD.fullmatch(path.name)
    name = options.name or safe(TYPE_IN_NAME.sub("", shard["start"] if shard else path.stem))
    files = tuple(Artifact("gguf", file, file.stat().st_size) for file in _gguf_files(path))
    return Bundle(Model(name), {Role.WEIGHTS: files})


def _gguf_files(first: Path) -> list[Path]:
    """The file, or all of those that it is the first of by its name."""
    return [first, *(inside(first.parent, name, first) for name in shard_names(first.name) if name != first.name)]


def _here(options: SourceOptions) -> Path | None:
    folder = locate(options, download=False, progress=Silent())
    return folder.absolute() if folder is not None else None


def _companions(folder: Path) -> dict[Role, tuple[Path, ...]]:
    """The companions by role; in the hub's cache their links may lead to its blobs."""
    snapshot = folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")
    found = companions.collect(folder, folder.parent.parent.parent if snapshot else None)
    for paths in found.values():
        for path in paths:
            if path.parent == folder:
                inside(folder, path.name)
    return found


def _weights(folder: Path) -> list[Path]:
    """The files that hold the weights, and their index. Raises InputError."""
    if shards := remake.shards_of(folder):
        return shards
    if (folder / LIST).is_file():
        return [folder / LIST]  # what stands for weights elsewhere
    kind = checkpoint.layout(folder)
    files, index = checkpoint.weight_files(folder, kind)
    return [*files, *([folder / kind.index] if index else [])]


def _check_weights(folder: Path) -> None:
    if remake.shards_of(folder):
        if importlib.util.find_spec("torch") is None:
            raise InputError(str(folder), "has a trainer's shards", "torch to read them", install_command("pickle"))
        remake.gathered(folder)
        return
    kind = checkpoint.layout(folder)
    if kind is not PICKLES:
        checkpoint.open_tensors(folder, checkpoint.is_classifier(folder))
        return
    files, _ = checkpoint.weight_files(folder, kind)
    for path in files:
        pickle_scan.scan(path)
    if importlib.util.find_spec("torch") is None:
        raise InputError(str(folder), "has pickled weights", "torch to read them", install_command("pickle"))


def _quantized(folder: Path) -> list[Problem]:
    """That the weights are packed in a way that is not read here; nothing where a file cannot be read at all."""
    try:
        cards = _companions(folder).get(Role.CARD, ())
        card, _ = read_card(next((path for path in cards if path.name == "README.md"), None))
        found = mend.refusal(folder, card)
    except InputError:  # said by who reads that file next
        return []
    return [found] if found else []


def _problems(look: Callable[[], object]) -> list[Problem]:
    try:
        look()
    except InputError as error:
        return [error.problem]
    return []


def _remake_notes(options: SourceOptions, folder: Path | None) -> tuple[str, ...]:
    """What is made of the files; nothing where that cannot be: `check` says why."""
    with contextlib.suppress(InputError):
        found = remade(options, folder) if folder is not None and folder.is_dir() else None
        return found.notes if found else ()
    return ()


def _stored(path: Path) -> Artifact:
    """A file of the weights; one whose bytes are elsewhere is known by its address and ETag."""
    elsewhere = remote_of(path)
    if elsewhere is None:
        return artifact(path)
    return Artifact("streamed", path, elsewhere.size, streamed.identity(elsewhere))


def _model(options: SourceOptions, folder: Path | None) -> Model:
    if options.hub is not None:
        revision = folder.name if folder is not None else ""
        return Model(options.name or safe(options.hub.rpartition("/")[2]), options.hub, revision)
    return Model(options.name or safe(Path(os.path.normpath(folder)).name if folder is not None else ""))  # of `..` too


def safe(name: str) -> str:
    """`name` as it may stand in a file name: other characters become `-`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "model"


class SourceStage(Stage[SourceOptions]):
    """The checkpoint that all is made from: a folder, or a model of the Hugging Face hub at a pinned revision."""

    NAME = "source"
    VERSION = 1
    Options = SourceOptions

    def fetched(self, options: SourceOptions) -> bool:
        """Whether the checkpoint is on this machine."""
        return _here(options) is not None

    def fetch(self, options: SourceOptions, progress: Progress) -> None:
        """Download a hub model that is not in the cache. Raises InputError when that fails."""
        locate(options, download=True, progress=progress)

    def notes(self, options: SourceOptions) -> list[str]:
        """That the model has to be fetched, that a branch is no pinned revision, and what is odd in the checkpoint."""
        if gguf_file(options):
            return ["the source is a GGUF file: its tensors are written again, its metadata and tokenizer are carried"]
        if onnx_file(options):
            return [
                "the source is an ONNX graph: other precisions are made of it, and it is what they are compared with"
            ]
        folder = _here(options)
        odd = mend.notes(folder) if folder is not None and folder.is_dir() else []
        return [*self._hub_notes(options), *odd, *_remake_notes(options, folder)]

    def _hub_notes(self, options: SourceOptions) -> list[str]:
        if options.hub is None:
            return []
        revision = options.revision or hub.DEFAULT_REVISION
        found = locate(options, download=False, progress=Silent())
        said = ["the weights stay on the hub: they are read from there while they are converted"] * options.stream
        if found is None and not options.stream:
            place = f"{options.hub} at {revision} is not in {hub.cache_folder()}"
            said.append(f"{place}; a run downloads it first, sizes and checks follow then")
        if not hub.COMMIT.fullmatch(revision):
            pin = f"it is {found.name} now" if found is not None else "the hub shows it under Files and versions"
            said.append(f"revision '{revision}' can move; put a commit in its place ({pin})")
        return said

    def reads(self, options: SourceOptions) -> list[Path]:
        """Every file of the checkpoint that counts: weights, their index, companions. Raises InputError."""
        if path := gguf_file(options):
            return _gguf_files(path)
        if path := onnx_file(options):
            return [file.path for _, file in _onnx_bundle(options, path).artifacts()]
        folder = _here(options)
        if folder is None:
            return []
        beside = [path for paths in _companions(folder).values() for path in paths]
        made = remade(options, folder)
        return [*_weights(folder), *beside, *(made.reads if made else ())]

    def check(self, options: SourceOptions, inputs: Inputs) -> list[Problem]:
        """What is wrong with the checkpoint, by its headers; nothing for a hub model that is not downloaded yet."""
        if path := gguf_file(options):
            return _gguf_problems(options, path)
        if path := onnx_file(options):
            return _onnx_problems(options, path)
        folder = _here(options)
        if folder is None:
            return []
        if not folder.is_dir():
            return _problems(lambda: checkpoint.read_config(folder))
        if quantized := _quantized(folder):
            return quantized
        strict = mend.lost_ids(folder) if options.strict else []
        looks = (lambda: checkpoint.read_config(folder), lambda: _companions(folder), lambda: _check_weights(folder))
        found = [problem for look in looks for problem in _problems(look)]
        first = list({problem.where: problem for problem in reversed(found)}.values())[::-1]  # the first on each file
        return first or strict or _problems(lambda: remade(options, folder))

    def forecast(self, options: SourceOptions, inputs: Inputs) -> Bundle:
        """The checkpoint's files where they are; those that will be converted by their bare names."""
        if path := gguf_file(options):
            return _gguf_bundle(options, path)
        if path := onnx_file(options):
            return _onnx_bundle(options, path)
        folder = _here(options)
        if folder is None:
            return Bundle(_model(options, None))
        roles = {role: tuple(artifact(path) for path in paths) for role, paths in _companions(folder).items()}
        if (made := remade(options, folder)) is not None:
            return made.forecast(Bundle(_model(options, folder), roles))
        kind = checkpoint.layout(folder)
        files, _ = checkpoint.weight_files(folder, kind)
        if kind is not PICKLES:
            return Bundle(_model(options, folder), {Role.WEIGHTS: tuple(map(_stored, files)), **roles})
        config = checkpoint.read_config(folder)
        pending = Pending(config, pickled.Planned(folder, tied=bool(config.get("tie_word_embeddings"))))
        return Bundle(_model(options, folder), {Role.WEIGHTS: pickled.forecast(files), **roles}, pending=pending)

    def run(self, options: SourceOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The checkpoint's bundle; pickled weights become safetensors in `out`. Files left in place have no hash."""
        if path := gguf_file(options):
            return _gguf_bundle(options, path)
        if path := onnx_file(options):
            return _onnx_bundle(options, path)
        folder = locate(options, download=True, progress=progress)
        if folder is not None and (made := remade(options, folder.absolute())):
            roles = {role: tuple(map(artifact, paths)) for role, paths in _companions(folder.absolute()).items()}
            return made.write(Bundle(_model(options, folder), roles), folder.absolute(), out, progress)
        bundle = self.forecast(options, inputs)
        if folder is None:
            return bundle
        bundle = mend.mend(replace(bundle, pending=None), folder.absolute(), out, progress)
        if checkpoint.layout(folder) is not PICKLES:
            return bundle
        files, index = checkpoint.weight_files(folder, PICKLES)
        config = checkpoint.read_config(folder)
        tied = bool(config.get("tie_word_embeddings"))
        return bundle.with_(weights=pickled.convert(files, index, out, tied=tied, progress=progress))


STAGE = SourceStage()
