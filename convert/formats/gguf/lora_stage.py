"""A LoRA as a file of its own: what llama.cpp adds to a GGUF of the base while it runs (`--lora`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convert.bundle import Artifact, Bundle
from convert.errors import ConvertError, Problem
from convert.needs import MB, Needs
from convert.options import Options, RecipePath
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only

if TYPE_CHECKING:
    from convert.formats.gguf.writer import Group

STAGE_NAME = "gguf_lora"


class LoraOptions(Options):
    """Which adapter."""

    path: RecipePath = Field(description="the folder of a PEFT LoRA: adapter_config.json and its weights")
    type: Literal["F32", "F16", "BF16", "Q8_0"] = Field("F16", description="of its matrices: F32, F16, BF16 or Q8_0")
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the file's name; the folder's name when left out",
    )


def _prepare(options: LoraOptions, inputs: Inputs) -> Group:
    from convert.formats.gguf.lora import prepare
    from convert.source.adapter import read_adapter

    path = options.path.absolute()
    return prepare(checkpoint(STAGE_NAME, inputs), read_adapter(path), options.type, options.name or path.name)


class LoraStage(Stage[LoraOptions]):
    """A LoRA as a GGUF adapter, which llama.cpp adds to a GGUF of the base while it runs."""

    NAME = STAGE_NAME
    VERSION = 1
    TOOLS = ("numpy", "numba")
    Options = LoraOptions

    def reads(self, options: LoraOptions) -> list[Path]:
        """The adapter's files."""
        return sorted(path for path in options.path.glob("*") if path.name.startswith(("adapter_", "README")))

    def check(self, options: LoraOptions, inputs: Inputs) -> list[Problem]:
        """What keeps it from being written: an adapter of another model, or with parts that llama.cpp does not have."""
        try:
            _prepare(options, inputs)
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(STAGE_NAME, p) for p in error.problems]
        return []

    def forecast(self, options: LoraOptions, inputs: Inputs) -> Bundle:
        """The source's companions and the adapter, with its exact size."""
        (plan,) = _prepare(options, inputs).plans
        return only(inputs).with_(weights=(), adapter=Artifact(plan.kind, Path(plan.name), plan.size))

    def needs(self, options: LoraOptions, inputs: Inputs, made: Bundle) -> Needs:
        """The adapter in memory, twice."""
        from convert.formats.gguf.lora import source_bytes

        return Needs(300 * MB + 4 * source_bytes(options.path), 1)

    def explain(self, options: LoraOptions, inputs: Inputs) -> Iterator[str]:
        """How many matrices it changes, for `convert plan -v`."""
        group = _prepare(options, inputs)
        (plan,) = group.plans
        yield f"{plan.name}: {len(group.tensors) // 2} matrices, {plan.size:,} bytes"

    def run(self, options: LoraOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Write the file."""
        from convert.formats.gguf.writer import write_files

        group = _prepare(options, inputs)
        progress.start(f"writing {group.plans[0].name}", 0)
        return only(inputs).with_(weights=(), adapter=write_files(out, group, progress))


STAGE = LoraStage()
