"""An FP8 checkpoint in compressed-tensors' layout, weights and activations in 8-bit floats, for vLLM on newer GPUs.

Weights have a scale a matrix, activations one that is found while the model runs: nothing is calibrated. The vision
tower, its projector and the head stay as they are.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from convert.bundle import Bundle
from convert.options import Options as BaseOptions
from convert.progress import Progress
from convert.stages import Inputs, _gptqmodel

if TYPE_CHECKING:
    from convert.gptq.scheme import Scheme

VERSION = 1
TOOLS: tuple[str, ...] = ("torch", "numpy")
NEEDS: dict[str, str] = {"compressed_tensors": "gptq", "torch": "gptq", "transformers": "gptq"}


class Options(BaseOptions):
    """There is little to choose."""

    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="start of the folder's name; the model's name when left out",
    )
    threads: int | None = Field(None, ge=1, description="CPU threads of the check at the end; all when left out")

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        from convert.gptq.scheme import Scheme

        return Scheme("fp8", 8, -1, True)


check = _gptqmodel.check
forecast = _gptqmodel.forecast
explain = _gptqmodel.explain


def run(options: Options, inputs: Inputs, out: Path, progress: Progress) -> Bundle:
    """The checkpoint's folder in `out`, loaded again and looked at in a fresh process before it is handed on."""
    from convert.gptq import fp8
    from quantize.fp8 import quantization_config

    with _gptqmodel.job(options, inputs, out, progress) as job:
        progress.start(f"writing {job.folder.name}", 1, "folder")
        weights = fp8.write_weights(job.folder, job.layout)
        bundle = _gptqmodel.finished(job, weights, quantization_config(job.layout.decision.kept))
        progress.advance(1)
    return bundle
