"""An FP8 checkpoint in compressed-tensors' layout, weights and activations in 8-bit floats, for vLLM on newer GPUs.

Activations get their scales while the model runs: nothing is calibrated. The vision tower, its projector, routers of
experts and the head stay as they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from convert.formats.compressed.straight_stage import StraightOptions, StraightStage

if TYPE_CHECKING:
    from quantize.presets import Preset


class FP8Options(StraightOptions):
    """How many weights share a scale."""

    scheme: Literal["dynamic", "block", "tensor"] = Field(
        "dynamic",
        description="dynamic: a scale a row and a token, llm-compressor's FP8_DYNAMIC; block: one for 128 x 128 "
        "weights and 128 inputs, its FP8_BLOCK and DeepSeek's; tensor: one a matrix",
    )

    @property
    def preset(self) -> Preset:
        """How matrices are stored, and inputs rounded."""
        from quantize import presets

        named = {"dynamic": presets.PRESETS["FP8_DYNAMIC"], "block": presets.PRESETS["FP8_BLOCK"]}
        return named.get(self.scheme, presets.FP8_TENSOR)


class FP8Stage(StraightStage[FP8Options]):
    """An FP8 checkpoint in compressed-tensors' layout, weights and activations in 8-bit floats, for newer GPUs."""

    NAME = "fp8"
    VERSION = 2
    Options = FP8Options


STAGE = FP8Stage()
