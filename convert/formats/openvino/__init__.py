"""OpenVINO: folders of IR that OpenVINO GenAI and optimum-intel load, in fp16, int8 and int4."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from convert.bundle import Bundle, Role
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
    Usage,
    parts_of,
    plain_release,
)
from validate.marks import Mark

if TYPE_CHECKING:
    from convert.architectures import Family
    from convert.formats.facts import Facts
    from convert.source.checkpoint import Checkpoint

PART = "openvino-part"
SEES = "openvino_vision_embeddings_model.xml"  # the first of those that turn an image into embeddings
NOTE = "Computed in float32 on the CPU; devices compute in 16 bits."
GENAI = """\
import openvino_genai

pipeline = openvino_genai.LLMPipeline(".", "CPU")
print(pipeline.generate("Hello", max_new_tokens=32))
"""
OPTIMUM = """\
from optimum.intel import OVModelForCausalLM

model = OVModelForCausalLM.from_pretrained("{repository}")
"""


def outputs(stage: str, bundle: Bundle) -> Iterator[Output]:
    """A folder is an output: the model with logits, and every file beside it."""
    for weights in bundle.of(Role.WEIGHTS):
        if weights.format == "openvino":
            parts = parts_of(bundle.of(Role.WEIGHTS), weights, PART)
            sees = next((file for file in parts if file.path.name == SEES), None)
            yield Output(stage, weights, tuple(file for file in parts if file is not sees), sees)


def supports(checkpoint: Checkpoint) -> Support:
    """What ONNX graphs are made of, where OpenVINO GenAI knows how it is cut."""
    from convert.formats.openvino.parts import supports

    return supports(checkpoint)


def supports_family(family: Family) -> Support:
    """The same, by what the family's models usually have."""
    from convert.architectures import TEXT_GRAPH
    from convert.formats.onnx.supports import supports_family
    from convert.formats.openvino.parts import WITH_IMAGES

    support = supports_family(family)
    if support.yes and family.graphs not in (TEXT_GRAPH, *WITH_IMAGES):
        return Support((f"{family.title}: its OpenVINO models are not known here",))
    return support


def inspect(path: Path, start: bytes) -> Facts | None:
    """None: OpenVINO reads its own XML."""
    del path, start
    return None


def recognize(path: Path, projector: Path | None) -> Found | None:
    """A folder with the IR of a model that gives logits."""
    from convert.formats.openvino.existing import recognize

    return recognize(path, projector)


def previews(sample: Sample) -> Iterator[Asked]:
    """In four bits."""
    del sample
    yield Asked("openvino", {"tokenizer": False}, slow=True)


def release(output: Output, folder: Path) -> Release:
    """As OpenVINO's own repositories are called: Model-int4-ov."""
    home = output.weights.path.parent
    made = plain_release(output, folder, f"-{output.weights.type}-ov")
    beside = {file.path.relative_to(home).as_posix(): file.path for file in output.files}
    usage = (
        Usage("OpenVINO GenAI (`pip install openvino-genai`)", GENAI, "python"),
        Usage("optimum-intel", OPTIMUM, "python", hub=True),
    )
    return replace(made, files=beside, library="openvino", usage=usage)


RECIPE = (
    RecipeEntry(
        "openvino",
        "openvino",
        "For Intel's CPUs, GPUs and NPUs: OpenVINO GenAI, optimum-intel.",
        "precision: int4 # also fp32, fp16, int8\n# npu: true     # one scale an output, as NPUs want it",
    ),
)

FORMAT = Format(
    name="openvino",
    title="OpenVINO",
    kinds=(Kind("openvino", "OpenVINO", Mark("star", "#00618f", "#62c8f5"), ("openvino",), note=NOTE),),
    stages={"openvino": "convert.formats.openvino.stage:STAGE"},
    outputs=outputs,
    supports=supports,
    supports_family=supports_family,
    inspect=inspect,
    recognize=recognize,
    previews=previews,
    rank=35,
    recipe=RECIPE,
    release=release,
    wanted="the folder of an OpenVINO model",
)
