"""An AWQ checkpoint in AutoAWQ's GEMM layout, for vLLM and transformers; the vision tower stays as it is.

The source is run one layer at a time; a run that is stopped goes on at the layer where it was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convert.formats.compressed.calibrated_stage import CalibratedOptions, CalibratedStage

if TYPE_CHECKING:
    from convert.formats.compressed.scheme import Scheme


class AWQOptions(CalibratedOptions):
    """In what groups, and measured on what."""

    bits: Literal[4] = Field(4, description="bits a weight: the layout has no others")
    group_size: Literal[32, 64, 128] = Field(128, description="inputs that share a scale")
    zero_point: bool = Field(True, description="zero points, as AutoAWQ has them and vLLM wants them")

    effort: Literal["plain", "normal", "high"] = Field(
        "normal",
        description="plain: weights go to the nearest level, as AutoAWQ's do; normal: GPTQ's integers under AWQ's "
        "factors; high: more turns of descent",
    )

    @property
    def scheme(self) -> Scheme:
        """What is asked of the quantizer."""
        from convert.formats.compressed.scheme import Scheme

        return Scheme(
            "awq",
            self.bits,
            self.group_size,
            not self.zero_point,
            effort=self.effort,
            sequential=self.sequential,
            calibrate_all_experts=self.calibrate_all_experts,
        )


class AWQStage(CalibratedStage[AWQOptions]):
    """An AWQ checkpoint in AutoAWQ's GEMM layout, for vLLM and transformers; the vision tower stays as it is."""

    NAME = "awq"
    VERSION = 2
    Options = AWQOptions


STAGE = AWQStage()
