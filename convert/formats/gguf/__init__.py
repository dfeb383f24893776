"""GGUF, llama.cpp's format: the language model in any number of types, a projector beside it, importance matrices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.formats.base import Asked, Format, Found, Kind, Output, RecipeEntry, Release, Sample, Support
from convert.formats.gguf.constants import MAGIC
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts, Hyperparameter, TensorError, TensorPair
    from convert.source.checkpoint import Checkpoint


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A language model is one file, or the shards llama.cpp finds by the first one's name; its projector is another."""
    from convert.formats.gguf.shard_names import is_later_shard, shard_names

    files = {a.path: a for a in bundle.of(Role.WEIGHTS) if a.format == "gguf"}
    projector = next((a for a in bundle.of(Role.PROJECTOR) if a.format == "gguf"), None)
    for path, weights in files.items():
        if not is_later_shard(path.name):
            later = (path.with_name(name) for name in shard_names(path.name)[1:])
            shards = tuple(files[shard] for shard in later if shard in files)
            start = path.name.removesuffix(".gguf").partition("-0000")[0]
            fit = next((a for a in bundle.of(Role.FIT) if a.path.name == f"{start}.fit.json"), None)
            yield Output(stage, weights, shards, projector, named_by_file=True, projector_apart=True, fit=fit)


def supports(checkpoint: Checkpoint) -> Support:
    """Families whose tensors a table in convert/architectures/ knows."""
    from convert.formats.gguf.supports import supports

    return supports(checkpoint)


def supports_family(family: Family) -> Support:
    """The same, by what the family's models usually have."""
    from convert.formats.gguf.supports import supports_family

    return supports_family(family)


def inspect(path: Path, start: bytes) -> Facts | None:
    """Metadata and tensors of a file that begins as GGUF files do, or is called like one."""
    from convert.formats.gguf.inspect import inspect

    return inspect(path) if start.startswith(MAGIC) or path.suffix == ".gguf" else None


def recognize(path: Path, projector: Path | None) -> Found | None:
    """A GGUF file by its first bytes; a folder of them is refused with what to name instead."""
    from convert.formats.gguf.existing import recognize

    return recognize(path, projector)


def previews(sample: Sample) -> Iterable[Asked]:
    """The usual types, and an importance matrix."""
    from convert.formats.gguf.preview import previews

    return previews(sample)


def tensor_errors(path: Path, folder: Path, values: int) -> Iterable[TensorError]:
    """The error of each tensor of a file against the checkpoint it was made from, about so many values of each."""
    from convert.formats.gguf.against import tensor_errors

    return tensor_errors(path, folder, values)


def tensor_pairs(output: Output, folder: Path) -> Iterable[TensorPair]:
    """The tensors of an output's files beside those of the checkpoint."""
    from convert.formats.gguf.against import tensor_pairs

    return tensor_pairs([file.path for file in output.files], folder)


def hyperparameters(output: Output, folder: Path) -> Iterable[Hyperparameter]:
    """What an output's metadata states of the model."""
    from convert.formats.gguf.against import hyperparameters

    return hyperparameters([file.path for file in output.files], folder)


def release(output: Output, folder: Path) -> Release:
    """All files of a model lie side by side in one repository, its projector and its importance matrix among them."""
    from convert.formats.gguf.usage import USAGE

    del folder
    return Release("-GGUF", {file.path.name: file.path for file in output.files}, (Role.IMATRIX,), "gguf", USAGE)


RECIPE = (
    RecipeEntry(
        "gguf",
        "gguf",
        "For llama.cpp and what is built on it. One pass over the weights writes every type.",
        "types: [Q8_0, Q6_K, Q4_K_M] # F16 and BF16 lose least, Q2_K is the smallest\n"
        "# mmproj: Q8_0             # the projector of a vision model: F16 when left out, false for none\n"
        "# split: 45GB              # larger files in shards, as llama-gguf-split does it",
    ),
    RecipeEntry(
        "imatrix",
        "imatrix",
        "An importance matrix: which columns matter most. It helps from 4 bits down.",
        "text: train.txt      # UTF-8, like what the model will be used for; not what it is tested on\n"
        "# parse_special: true # where the text spells out special tokens: <|im_start|>",
        wanted="a text to calibrate on",
    ),
    RecipeEntry(
        "weighted",
        "gguf",
        "The same types again, encoded with the matrix in mind.",
        "name: MODEL-i1 # start of the file names\ntypes: [Q4_K_M, Q3_K_M, Q2_K]",
        takes="imatrix",
    ),
)

FORMAT = Format(
    name="gguf",
    title="GGUF",
    kinds=(Kind("gguf", "GGUF", Mark("circle", "#1668c8", "#6aabff"), runtimes=("llama_cpp",)),),
    stages={
        "checkpoint": "convert.formats.gguf.checkpoint_stage:STAGE",
        "gguf": "convert.formats.gguf.stage:STAGE",
        "gguf_lora": "convert.formats.gguf.lora_stage:STAGE",
        "imatrix": "convert.formats.gguf.imatrix_stage:STAGE",
        "calibration": "convert.formats.gguf.calibration_stage:STAGE",
    },
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    magic=MAGIC,
    takes_projector=True,
    wanted="a GGUF file",
    previews=previews,
    tensor_errors=tensor_errors,
    tensor_pairs=tensor_pairs,
    hyperparameters=hyperparameters,
    rank=10,
    recipe=RECIPE,
    release=release,
)
