"""ONNX: portable graphs of standard operators in several precisions, and onnxruntime-genai's folder."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
from convert.distribution import install_command
from convert.errors import InputError
from convert.formats.base import (
    SHARED,
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
)
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts, Hyperparameter, TensorPair
    from convert.source.checkpoint import Checkpoint

PART = "onnx-part"  # the kind of the other files of a graph: its data, the embedder
SEES = "vision.onnx"  # of a folder for onnxruntime-genai that takes images
TEXT_ONLY = "this format holds the text decoder alone"


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A precision is an output: the decoder's graph, what it reads, and the vision encoder's of the same type."""
    texts = {kind.name: kind.text_only for kind in FORMAT.kinds}
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format in texts:
            projector = next((a for a in bundle.of(Role.PROJECTOR) if a.kind == weights.kind), None)
            parts, vision = (parts_of(bundle.of(role), weights, PART) for role in (Role.WEIGHTS, Role.PROJECTOR))
            sees = next((file for file in parts if file.path.name == SEES), None)
            shares = any(file.type == SHARED for file in parts)
            yield Output(
                stage,
                weights,
                tuple(file for file in parts if file is not sees),
                projector or sees,
                vision,
                widened=weights.format == FORMAT.name and not weights.type.startswith(("int", "q4")),
                shares_checkpoint=shares,
                text_only="" if sees else texts[weights.format],
            )


def supports(checkpoint: Checkpoint) -> Support:
    """What a task is known for and decoders that transformers can run without values, all tensors in their place."""
    from convert.errors import ConvertError
    from convert.formats.onnx.export import misfits

    try:
        return Support(tuple(map(str, misfits(checkpoint))))
    except ConvertError as error:
        return Support(tuple(map(str, error.problems)))


def supports_family(family: Family) -> Support:
    """The same, by what the family's models usually have."""
    from convert.formats.onnx.supports import supports_family

    return supports_family(family)


def inspect(path: Path, start: bytes) -> Facts | None:
    """A graph: what goes in, what comes out, which operators it needs and which files its weights are in."""
    del start  # protobuf begins with nothing that says what it is
    if path.suffix != ".onnx":
        return None
    if find_spec("onnx") is None:
        raise InputError(str(path), "needs onnx to be read", "", install_command("onnx"))
    from convert.formats.facts import TensorSummary, facts
    from convert.formats.onnx.header import read_onnx

    metadata, tensors = read_onnx(path)
    return facts(path, "ONNX", path.stat().st_size, metadata, tuple(TensorSummary(*tensor) for tensor in tensors))


def recognize(path: Path, projector: Path | None) -> Found | None:
    """A graph that gives logits, a folder of such graphs, or onnxruntime-genai's folder."""
    from convert.formats.onnx.existing import recognize

    return recognize(path, projector)


def previews(sample: Sample) -> Iterator[Asked]:
    """The portable graphs, and onnxruntime-genai's folder."""
    del sample
    yield Asked("onnx", {"precision": ["fp32", "fp16", "int8", "int4", "q4f16"]}, slow=True)
    yield Asked("onnx", {"flavor": "genai", "precision": "int4"}, "genai", slow=True)


def tensor_pairs(output: Output, folder: Path) -> Iterator[TensorPair]:
    """The weights of an output's graphs, decoded, beside those of the checkpoint."""
    from convert.formats.onnx.against import tensor_pairs

    return tensor_pairs([file.path for file in output.files], folder)


def hyperparameters(output: Output, folder: Path) -> Iterator[Hyperparameter]:
    """What the config.json beside the graphs states of the model."""
    from convert.formats.stated import stated
    from validate.runtimes._graph_session import home_of

    return stated(home_of(output.weights.path), folder)


def release(output: Output, folder: Path) -> Release:
    """Graphs in `onnx/`, where transformers.js looks for them; onnxruntime-genai wants its own beside the tokenizer."""
    from convert.formats.onnx import usage

    del folder
    names = {file.path.name: file.path for file in output.files}
    if output.weights.format == FORMAT.name:
        files = {f"onnx/{name}": path for name, path in names.items()}
        return Release(
            "-ONNX", files, library="transformers.js", usage=usage.IMAGES if output.projector else usage.PORTABLE
        )
    suffix = f"-ONNX-genai-{output.weights.type}"
    return Release(suffix, names, library="onnxruntime-genai", usage=usage.FOLDER)


RECIPE = (
    RecipeEntry(
        "onnx",
        "onnx",
        "Graphs of standard operators for ONNX Runtime, OpenVINO and transformers.js.",
        "precision: [fp32, int8] # also fp16, bf16, int4, q4f16: one trace serves all\n"
        "# layout: flat         # graphs beside config.json that read the checkpoint's own weights: almost no bytes",
    ),
)

FORMAT = Format(
    name="onnx",
    title="ONNX",
    kinds=(
        Kind("onnx", "ONNX", Mark("square", "#c24f06", "#ff9d5c"), runtimes=("onnxruntime",)),
        Kind("onnx-genai", "ONNX genai", Mark("diamond", "#8338c0", "#c99aff"), ("onnxruntime_genai",), TEXT_ONLY),
    ),
    stages={"onnx": "convert.formats.onnx.stage:STAGE"},
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    guesses=True,
    previews=previews,
    tensor_pairs=tensor_pairs,
    hyperparameters=hyperparameters,
    rank=30,
    recipe=RECIPE,
    release=release,
    wanted="an ONNX graph, the folder of ONNX graphs or of onnxruntime-genai",
)
