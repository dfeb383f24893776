"""A GPTQ checkpoint in AutoGPTQ's layout, for vLLM, transformers and ExLlama; the vision tower stays as it is.

gptqmodel does the arithmetic, layer by layer, on a GPU where there is one. A run that is stopped starts anew: the
library resumes two architectures only, and none with modules left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convert.formats.compressed.gptqmodel_stage import CalibratedOptions, CalibratedStage

if TYPE_CHECKING:
    from convert.formats.compressed.scheme import Scheme


class GPTQOptions(CalibratedOptions):
    """In how many bits, and measured on what."""

    bits: Literal[2, 3, 4, 8] = Field(4, description="bits a weight")
    group_size: Literal[-1, 32, 64, 128] = Field(128, description="inputs that share a scale; -1 for all of a row's")
    desc_act: bool = Field(False, description="quantize the inputs that matter most first; slower to run")
    sym: bool = Field(True, description="no zero points; what fast kernels want")
    damp: float = Field(0.05, gt=0, lt=1, description="share of the mean added to the Hessian's diagonal")

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        from convert.formats.compressed.scheme import Scheme

        return Scheme("gptq", self.bits, self.group_size, self.sym, self.desc_act, self.damp)


class GPTQStage(CalibratedStage[GPTQOptions]):
    """A GPTQ checkpoint in AutoGPTQ's layout, for vLLM, transformers and ExLlama; the vision tower stays as it is."""

    NAME = "gptq"
    VERSION = 1
    Options = GPTQOptions


STAGE = GPTQStage()
