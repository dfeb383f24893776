"""GPTQ, AWQ and compressed-tensors: checkpoints in fewer bits for GPU servers, vision tower and processor kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.formats.base import Asked, Format, Found, Kind, Output, RecipeEntry, Release, Sample, Support, parts_of
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts, Hyperparameter, TensorPair
    from convert.source.checkpoint import Checkpoint

RUNTIMES = ("gptqmodel",)
NOTE = (
    "transformers multiplies decoded weights, inputs rounded as the scheme says; the inputs of experts, which it keeps "
    "in one tensor, are not rounded."
)


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A folder is an output; a vision tower lies among its weights, as it was in the source."""
    kinds = {kind.name for kind in FORMAT.kinds}
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format in kinds:
            parts = parts_of(bundle.of(Role.WEIGHTS), weights, f"{weights.format}-part")
            same_file = replace(weights, kind=weights.format, size=0)  # counted once
            projector = same_file if bundle.of(Role.PREPROCESSOR) else None
            yield Output(stage, weights, parts, projector)


def supports(checkpoint: Checkpoint) -> Support:
    """Decoders whose layers are made of matrices that the loaders replace."""
    from convert.formats.compressed.supports import supports

    return supports(checkpoint)


def supports_family(family: Family) -> Support:
    """The same, by what the family's models usually have."""
    from convert.formats.compressed.supports import supports_family

    return supports_family(family)


def inspect(path: Path, start: bytes) -> Facts | None:
    """None: its files are safetensors, which are read without it."""
    del path, start
    return None


def recognize(path: Path, projector: Path | None) -> Found | None:
    """The folder of a checkpoint whose config.json says how it is quantized."""
    from convert.formats.compressed.existing import recognize

    return recognize(path, projector)


def previews(sample: Sample) -> Iterator[Asked]:
    """Each method with its defaults."""
    calibration = {"calibration": {"text": sample.text, "length": sample.window}}
    yield from (Asked("gptq", calibration), Asked("awq", calibration), Asked("fp8"))
    yield Asked("compressed", {"scheme": "W4A16"})


def tensor_pairs(output: Output, folder: Path) -> Iterator[TensorPair]:
    """The tensors of a folder, decoded, beside those of the checkpoint."""
    from convert.formats.compressed.against import tensor_pairs

    return tensor_pairs(_weight_files(output), folder)


def hyperparameters(output: Output, folder: Path) -> Iterator[Hyperparameter]:
    """What a folder's config.json states of the model, and which tensors it has."""
    from convert.formats.compressed.against import missing
    from convert.formats.stated import stated

    yield from stated(output.weights.path.parent, folder)
    yield from missing(_weight_files(output), folder)


def _weight_files(output: Output) -> list[Path]:
    return [file.path for file in (output.weights, *output.parts) if file.path.suffix == ".safetensors"]


def release(output: Output, folder: Path) -> Release:
    """The folder as it lies there, which loaders take whole; it is called by its method and its bits: Model-AWQ."""
    from convert.formats.compressed.usage import USAGE

    del folder
    home = output.weights.path.parent
    files = {file.path.relative_to(home).as_posix(): file.path for file in output.files}
    weights = output.weights
    named = re.search(r"-FP8-\w+\Z", home.name)  # of two kinds, which the type of the artifact does not tell
    suffix = {"awq": "-AWQ", "gptq": f"-GPTQ-{weights.type}"}.get(weights.format) or (named[0] if named else "")
    return Release(suffix or f"-{weights.type or weights.format}", files, library="transformers", usage=USAGE)


CALIBRATION = "calibration: {text: train.txt, samples: 128, length: 512} # not what it is tested on"
RECIPE = (
    RecipeEntry("fp8", "fp8", "For newer GPUs: weights and activations in 8-bit floats. Needs no calibration."),
    RecipeEntry(
        "w4a16",
        "compressed",
        "For vLLM and SGLang: schemes of llm-compressor that need no calibration.",
        "scheme: W4A16 # FP8_DYNAMIC, FP8_BLOCK, W8A8, W8A16, W4A16, NVFP4, NVFP4A16, MXFP4 or MXFP4A16",
        wanted="a scheme",
    ),
    RecipeEntry(
        "gptq",
        "gptq",
        "For GPU servers: vLLM, transformers, ExLlama.",
        f"bits: 4         # 2, 3, 4 or 8\ngroup_size: 128 # -1, 32, 64 or 128\n{CALIBRATION}",
        wanted="a text to calibrate on",
    ),
    RecipeEntry(
        "awq",
        "awq",
        "For GPU servers: vLLM, transformers.",
        CALIBRATION,
        wanted="a text to calibrate on",
    ),
)

FORMAT = Format(
    name="compressed",
    title="GPTQ, AWQ, FP8 and compressed-tensors",
    kinds=(
        Kind("gptq", "GPTQ", Mark("up", "#0a7a68", "#3ecfb2"), RUNTIMES),
        Kind("awq", "AWQ", Mark("down", "#b0196b", "#ff85bf"), RUNTIMES),
        Kind("fp8", "FP8", Mark("hexagon", "#6a6d00", "#cdd04a"), RUNTIMES, note=NOTE),
        Kind("compressed", "compressed-tensors", Mark("bow", "#9b1c1c", "#ff9a9a"), RUNTIMES, note=NOTE),
        Kind("checkpoint", "safetensors", Mark("flag", "#8a5a00", "#e0b050"), ("transformers",)),  # by use: existing
    ),
    stages={
        "gptq": "convert.formats.compressed.gptq_stage:STAGE",
        "awq": "convert.formats.compressed.awq_stage:STAGE",
        "fp8": "convert.formats.compressed.fp8_stage:STAGE",
        "compressed": "convert.formats.compressed.compressed_stage:STAGE",
    },
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    previews=previews,
    tensor_pairs=tensor_pairs,
    hyperparameters=hyperparameters,
    rank=20,
    recipe=RECIPE,
    release=release,
    wanted="the folder of a checkpoint in safetensors, GPTQ, AWQ or compressed-tensors",
)
