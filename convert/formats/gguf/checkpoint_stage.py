"""A GGUF file as a checkpoint: for a model that is published as GGUF alone, and is to be validated or exported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from convert.bundle import Artifact, Bundle, Pending, Role
from convert.errors import ConvertError, InputError, Problem
from convert.files import write_text
from convert.needs import MB, Needs
from convert.options import Options
from convert.progress import Progress
from convert.source import rewrite
from convert.stage import Inputs, Stage, only

if TYPE_CHECKING:
    from convert.formats.gguf.unpack import Unpacked

ROLES = {
    "config.json": Role.CONFIG,
    "tokenizer.json": Role.TOKENIZER,
    "tokenizer_config.json": Role.TOKENIZER,
    "generation_config.json": Role.GENERATION,
}


class CheckpointOptions(Options):
    """Of a GGUF file in which types."""

    allow_requantize: bool = Field(
        False, description="of a file of other types than F32, F16 and BF16 too: what was lost does not come back"
    )


def _unpacked(options: CheckpointOptions, inputs: Inputs) -> Unpacked:
    from convert.formats.gguf.requantize import PLAIN
    from convert.formats.gguf.unpack import Unpacked

    weights = [a for bundle in inputs.values() for a in bundle.of(Role.WEIGHTS)]
    if len(weights) != 1 or weights[0].kind != "gguf":
        raise InputError("checkpoint", "takes one GGUF file", "`model: {path: model.gguf}`")
    found = Unpacked(weights[0].path)
    lost = [t for t in found.header.tensors if t.type.name not in PLAIN]
    if lost and not options.allow_requantize:
        got = f"holds {len(lost)} tensors of {', '.join(sorted({t.type.name for t in lost}))}"
        raise found.refuse(got, ", ".join(PLAIN), "say `allow_requantize: true`: what was lost does not come back")
    return found


class CheckpointStage(Stage[CheckpointOptions]):
    """A safetensors checkpoint of a GGUF file of Llama, Qwen2 or Qwen3: weights, config, tokenizer."""

    NAME = "checkpoint"
    VERSION = 1
    TOOLS = ("numpy", "gguf")
    Options = CheckpointOptions

    def check(self, options: CheckpointOptions, inputs: Inputs) -> list[Problem]:
        """What keeps the file from being one: another architecture, or something that no config can say."""
        try:
            self.forecast(options, inputs)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem("checkpoint", p) for p in error.problems]
        return []

    def forecast(self, options: CheckpointOptions, inputs: Inputs) -> Bundle:
        """The checkpoint's files, with sizes without headers."""
        found = _unpacked(options, inputs)
        tensors = {tensor.name: tensor for tensor in found.tensors()}
        weights = rewrite.forecast(tensors)
        roles: dict[Role, tuple[Artifact, ...]] = {Role.WEIGHTS: weights}
        for name, text in found.files().items():
            own = Artifact("json", Path(name), len(text.encode()))
            roles[ROLES[name]] = (*roles.get(ROLES[name], ()), own)
        return Bundle(only(inputs).model, roles, pending=Pending(found.config, tensors))

    def needs(self, options: CheckpointOptions, inputs: Inputs, made: Bundle) -> Needs:
        """A matrix in float32."""
        return Needs(500 * MB, 1)

    def run(self, options: CheckpointOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Write the files into `out`."""
        found = _unpacked(options, inputs)
        weights = rewrite.write_weights({tensor.name: tensor for tensor in found.tensors()}, out, progress)
        roles: dict[Role, tuple[Artifact, ...]] = {Role.WEIGHTS: weights}
        for name, text in found.files().items():
            own = write_text(out / name, text, "json")
            roles[ROLES[name]] = (*roles.get(ROLES[name], ()), own)
        return Bundle(only(inputs).model, roles)


STAGE = CheckpointStage()
