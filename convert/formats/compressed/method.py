"""What a quantizer is told."""

from __future__ import annotations

from dataclasses import dataclass

from quantize.gptq import Effort
from quantize.grids import Grid


@dataclass(frozen=True)
class Method:
    """How matrices become integers. `factors`: columns are scaled, what stands in front by as much the other way."""

    grid: Grid
    effort: Effort
    factors: bool
    sequential: bool = True  # a layer is made for what the quantized ones before it give
    all_experts: bool = False
