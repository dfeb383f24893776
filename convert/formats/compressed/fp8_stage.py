"""An FP8 checkpoint in compressed-tensors' layout, weights and activations in 8-bit floats, for vLLM on newer GPUs.

Weights have a scale a matrix, activations one that is found while the model runs: nothing is calibrated. The vision
tower, its projector and the head stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from convert.bundle import Bundle
from convert.formats.compressed.folder_stage import CompressedStage, SchemeOptions, finished, job
from convert.progress import Progress
from convert.stage import Inputs

if TYPE_CHECKING:
    from convert.formats.compressed.scheme import Scheme


class FP8Options(SchemeOptions):
    """There is little to choose."""

    threads: int | None = Field(None, ge=1, description="CPU threads of the check at the end; all when left out")

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        from convert.formats.compressed.scheme import FP8

        return FP8


class FP8Stage(CompressedStage[FP8Options]):
    """An FP8 checkpoint in compressed-tensors' layout, weights and activations in 8-bit floats, for newer GPUs."""

    NAME = "fp8"
    VERSION = 1
    TOOLS = ("torch", "numpy")
    NEEDS: ClassVar[Mapping[str, str]] = {"compressed_tensors": "gptq", "torch": "gptq", "transformers": "gptq"}
    Options = FP8Options

    def run(self, options: FP8Options, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
        """The checkpoint's folder in `out`, loaded again and looked at in a fresh process before it is handed on."""
        from convert.formats.compressed import fp8
        from quantize.fp8 import quantization_config

        with job(options, inputs, out, progress) as this:
            progress.start(f"writing {this.folder.name}", 1, "folder")
            weights = fp8.write_weights(this.folder, fp8.Fp8Layout(this.layout.checkpoint, this.scheme))
            bundle = finished(this, weights, quantization_config(this.layout.towers, this.layout.head))
            progress.advance(1)
        return bundle


STAGE = FP8Stage()
