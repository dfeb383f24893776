"""TensorRT: engines built from the graphs of the onnx stage, for the GPUs and the version that engine.json names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.formats.base import (
    Asked,
    Format,
    Found,
    Kind,
    Output,
    RecipeEntry,
    Release,
    Sample,
    Support,
    parts_of,
    plain_release,
)
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family, Roles
    from convert.formats.facts import Facts
    from convert.source.checkpoint import Checkpoint

PART = "tensorrt-part"
SUFFIX = ".engine"
NOTE = "An engine holds its weights once for many tokens at a time, and again for single ones."


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A precision is an output: its engine, engine.json and its like, and the vision encoder's engine."""
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format == "tensorrt":
            projector = next((a for a in bundle.of(Role.PROJECTOR) if a.kind == weights.kind), None)
            parts, seen = (parts_of(bundle.of(role), weights, PART) for role in (Role.WEIGHTS, Role.PROJECTOR))
            yield Output(stage, weights, parts, projector, seen)


def supports(checkpoint: Checkpoint) -> Support:
    """What ONNX graphs are made of: an engine is built from one."""
    from convert import architectures
    from convert.errors import ConvertError
    from convert.formats.onnx import FORMAT as ONNX

    support = ONNX.supports(checkpoint)
    try:
        return _without_experts(support, architectures.roles(checkpoint.config, checkpoint.tensors))
    except ConvertError:  # of no family of ours
        return support


def supports_family(family: Family) -> Support:
    """The same, by what the family's models usually have."""
    from convert.formats.onnx.supports import supports_family

    return _without_experts(supports_family(family), family.usual_roles())


def _without_experts(support: Support, roles: Roles) -> Support:
    """No, for a graph that sends tokens to experts: how many each gets depends on values."""
    from convert.architectures import EXPERTS

    if support.yes and roles.present & EXPERTS:
        got = f"{roles.family.title} has experts: TensorRT splits tokens by no numbers that depend on values"
        return Support((got,))
    return support


def inspect(path: Path, start: bytes) -> Facts | None:
    """Nothing: an engine is read by the TensorRT that built it alone. Raises InputError that says so."""
    del start
    if path.suffix == SUFFIX:
        remedy = "engine.json beside it says what it is"
        raise InputError(str(path), "is a TensorRT engine, which only TensorRT reads", "a model file", remedy)
    return None


def recognize(path: Path, projector: Path | None) -> Found | None:
    """None: raises InputError for engines, which are machine code that no stranger's is run here."""
    del projector
    if path.suffix == SUFFIX or (path.is_dir() and any(file.suffix == SUFFIX for file in path.iterdir())):
        got = "holds TensorRT engines: machine code for one kind of GPU, which no stranger's is run here"
        raise InputError(str(path), got, "the graphs", "build them from the graphs with `use: tensorrt`")
    return None


def previews(sample: Sample) -> Iterator[Asked]:
    """Engines of the graphs that the onnx stage would make."""
    del sample
    yield Asked("tensorrt", takes="onnx", slow=True)


def release(output: Output, folder: Path) -> Release:
    """Engines run on the GPUs and the version that they were built for alone: the repository's name says both."""
    from convert.formats.tensorrt.usage import USAGE

    said = json.loads((output.weights.path.with_name("engine.json")).read_text(encoding="utf-8"))
    devices = [f"sm{word.replace('.', '')}" for word in said["compute_capabilities"]]
    flavour = "TensorRT-RTX" if "RTX" in said["flavour"] else "TensorRT"
    version = ".".join(str(said["version"]).split(".")[:2])
    suffix = "-".join(["", flavour, version, *devices, said["precision"]])
    return Release(suffix, plain_release(output, folder, "").files, library="tensorrt", usage=USAGE)


RECIPE = (
    RecipeEntry(
        "tensorrt",
        "tensorrt",
        "Engines of the fp32 graphs. Built without a GPU, run where there is one.",
        "precision: fp32 # one of the onnx stage's: fp32, fp16 or bf16",
        takes="onnx",
    ),
)

FORMAT = Format(
    name="tensorrt",
    title="TensorRT",
    kinds=(Kind("tensorrt", "TensorRT", Mark("cross", "#52606f", "#aab6c4"), ("tensorrt",), note=NOTE),),
    stages={"tensorrt": "convert.formats.tensorrt.stage:STAGE"},
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    previews=previews,
    rank=40,
    recipe=RECIPE,
    release=release,
)
