"""A GPTQ checkpoint in AutoGPTQ's layout, for vLLM, transformers and ExLlama; the vision tower stays as it is.

The source is run one layer at a time; a run that is stopped goes on at the layer where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convert.formats.compressed.calibrated_stage import CalibratedOptions, CalibratedStage

if TYPE_CHECKING:
    from convert.formats.compressed.scheme import Scheme


class GPTQOptions(CalibratedOptions):
    """In how many bits, and measured on what."""

    bits: Literal[2, 3, 4, 8] = Field(4, description="bits a weight")
    group_size: Literal[-1, 32, 64, 128] = Field(128, description="inputs that share a scale; -1 for all of a row's")
    desc_act: bool = Field(False, description="quantize the inputs that matter most first; slower to run")
    sym: bool = Field(True, description="no zero points; what fast kernels want")
    damp: float = Field(0.01, gt=0, lt=1, description="share of the mean added to the Hessian's diagonal")
    scale: bool = Field(False, description="AWQ's factors too, folded into the norms: a little better")
    effort: Literal["normal", "high"] = Field(
        "normal", description="high: more turns of descent, for a little less drift"
    )

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        from convert.formats.compressed.scheme import Scheme

        return Scheme(
            "gptq",
            self.bits,
            self.group_size,
            self.sym,
            self.desc_act,
            self.damp,
            self.scale,
            self.effort,
            self.sequential,
            self.calibrate_all_experts,
        )


class GPTQStage(CalibratedStage[GPTQOptions]):
    """A GPTQ checkpoint in AutoGPTQ's layout, for vLLM, transformers and ExLlama; the vision tower stays as it is."""

    NAME = "gptq"
    VERSION = 2
    Options = GPTQOptions


STAGE = GPTQStage()
