"""A compressed-tensors checkpoint by one of llm-compressor's schemes that need no calibration, for vLLM and SGLang.

The vision tower, its projector, routers of experts and the head stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from convert.formats.compressed.straight_stage import StraightOptions, StraightStage

if TYPE_CHECKING:
    from quantize.presets import Preset

IN_GROUPS = ("W8A16", "W4A16")


class CompressedOptions(StraightOptions):
    """By which scheme."""

    scheme: Literal["FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "W8A16", "W4A16", "NVFP4", "NVFP4A16", "MXFP4", "MXFP4A16"] = (
        Field(
            description="as llm-compressor calls it: W4A16 has weights of 4 bits and activations of 16; NVFP4 and "
            "MXFP4 have both in 4-bit floats, with A16 the weights alone"
        )
    )
    group_size: Literal[-1, 32, 64, 128] | None = Field(
        None, description="W8A16 and W4A16: inputs that share a scale, -1 for all of a row's; 128 when left out"
    )

    @model_validator(mode="after")
    def _groups(self) -> Self:
        if self.group_size is not None and self.scheme not in IN_GROUPS:
            raise ValueError(f"group_size is for {' and '.join(IN_GROUPS)}: the groups of {self.scheme} are fixed")
        return self

    @property
    def preset(self) -> Preset:
        """How matrices are stored, and inputs rounded."""
        from quantize.presets import PRESETS, with_group

        preset = PRESETS[self.scheme]
        return preset if self.group_size is None else with_group(preset, self.group_size)


class CompressedTensorsStage(StraightStage[CompressedOptions]):
    """A compressed-tensors checkpoint by one of llm-compressor's schemes that need no calibration, for vLLM."""

    NAME = "compressed"
    VERSION = 1
    Options = CompressedOptions


STAGE = CompressedTensorsStage()
