"""A folder for OpenVINO GenAI and optimum-intel, from the checkpoint: fp16, int8 or int4, tokenizer and all.

Weights are compressed by our own integers in NNCF's layout; the key-value cache is the model's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from convert.bundle import Bundle, Role
from convert.errors import ConvertError, Problem
from convert.formats.openvino.scheme import WHOLE_ROWS, Asked, Scheme
from convert.model.memory_needs import LIBRARIES, cores_for
from convert.needs import MB, Needs
from convert.options import Options
from convert.progress import Progress
from convert.stage import Inputs, Stage, checkpoint, only


class OpenVINOOptions(Options):
    """In how many bits, and for which device."""

    precision: Literal["fp32", "fp16", "int8", "int4"] = Field(
        "int4", description="fp32 (as the checkpoint stores them), fp16, int8 or int4"
    )
    group_size: Literal[32, 64, 128, -1] | None = Field(
        None, description="inputs that share a scale in int4: 32, 64, 128, or -1 for all of an output; 128 if left out"
    )
    symmetric: bool | None = Field(None, description="int4 without zero points; true when left out")
    npu: bool = Field(
        False, description="for an NPU: int4 with one scale an output, symmetric, the last layer in 4 bits too"
    )
    tokenizer: bool = Field(True, description="also write the tokenizer as OpenVINO models, which GenAI needs")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.precision != "int4" and (self.group_size or self.symmetric is not None or self.npu):
            raise ValueError(f"group_size, symmetric and npu are of int4, and precision is {self.precision}")
        if self.npu and (self.group_size or self.symmetric is not None):
            raise ValueError("npu: says group_size and symmetric; leave them out")
        return self

    @property
    def scheme(self) -> Scheme:
        """In the words of the writer."""
        if self.npu:
            return Scheme(self.precision, WHOLE_ROWS, True, True)
        return Scheme(self.precision, self.group_size or 128, self.symmetric is not False)


class OpenVINOStage(Stage[OpenVINOOptions]):
    """A folder for OpenVINO GenAI and optimum-intel: Intel's CPUs, GPUs and NPUs; 4 or 8 bits, tokenizer included."""

    NAME = "openvino"
    VERSION = 1
    TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript", "openvino", "numpy", "numba")
    NEEDS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("torch", "transformers", "onnx", "onnx_ir", "onnxscript", "ml_dtypes"), "onnx"),
        "openvino": "openvino",
    }
    Options = OpenVINOOptions

    def tools(self, options: OpenVINOOptions) -> tuple[str, ...]:
        """Also what converts the tokenizer."""
        return (*self.TOOLS, "openvino-tokenizers") if options.tokenizer else self.TOOLS

    def check(self, options: OpenVINOOptions, inputs: Inputs) -> list[Problem]:
        """What keeps the model from being exported, by its headers and configs."""
        import importlib.util

        from convert.distribution import install_command
        from convert.formats.openvino import export

        if options.tokenizer and importlib.util.find_spec("openvino_tokenizers") is None:
            remedy = f"{install_command('openvino')}, or tokenizer: false"
            return [Problem(self.NAME, "needs openvino-tokenizers for the tokenizer, not installed", "", remedy)]
        try:
            return export.check(checkpoint(self.NAME, inputs))
        except ConvertError as error:
            return [p if isinstance(p, Problem) else Problem(self.NAME, p) for p in error.problems]

    def forecast(self, options: OpenVINOOptions, inputs: Inputs) -> Bundle:
        """The bundle that `run` will return, with sizes that are close."""
        from convert.formats.openvino import export

        return export.forecast(checkpoint(self.NAME, inputs), Asked(options.scheme, options.tokenizer))

    def needs(self, options: OpenVINOOptions, inputs: Inputs, made: Bundle) -> Needs:
        """torch and the traced graphs; weights stay in files."""
        return Needs(LIBRARIES + 400 * MB, cores_for(only(inputs)))

    def explain(self, options: OpenVINOOptions, inputs: Inputs) -> Iterator[str]:
        """Lines about every file, for `convert plan -v`."""
        for artifact in self.forecast(options, inputs).of(Role.WEIGHTS):
            yield f"{artifact.path.name}: about {artifact.size:,} bytes"

    def run(self, options: OpenVINOOptions, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """Write the folder into `out`."""
        from convert.formats.openvino import export

        return export.export(checkpoint(self.NAME, inputs), Asked(options.scheme, options.tokenizer), out, progress)


STAGE = OpenVINOStage()
