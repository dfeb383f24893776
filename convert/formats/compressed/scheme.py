"""What is asked of the quantizer, and its quantization_config, which tells readers of it."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convert.distribution import RELEASE
from convert.json_types import JsonDict, JsonObject
from quantize import awq_layout, gptq_layout

if TYPE_CHECKING:
    from convert.formats.compressed.method import Method

LAYOUTS: Mapping[str, types.ModuleType] = {"gptq": gptq_layout, "awq": awq_layout}


@dataclass(frozen=True)
class Scheme:
    """A method and its settings. `symmetric` is AWQ's `not zero_point`."""

    method: str  # gptq, awq, fp8 or compressed
    bits: int
    group_size: int
    symmetric: bool
    desc_act: bool = False
    damp: float = 0.01
    scale: bool = False  # AWQ's factors; awq always
    effort: str = "normal"
    sequential: bool = True
    calibrate_all_experts: bool = False
    keep: tuple[str, ...] = ()  # modules that stay as they are, for a format that has more bits for them

    @property
    def layout(self) -> types.ModuleType:
        """The module that knows this method's tensors."""
        return LAYOUTS[self.method]

    @property
    def how(self) -> Method:
        """What the quantizer is told."""
        from convert.formats.compressed.method import Method
        from quantize.gptq import HIGH, NORMAL, PLAIN
        from quantize.grids import Grid

        lowest = 1 if self.method == "gptq" else 0  # its first format stores zero points less one
        grid = Grid(self.bits, self.group_size, self.symmetric, self.desc_act, lowest)
        effort = replace({"normal": NORMAL, "high": HIGH, "plain": PLAIN}[self.effort], damp=self.damp)
        factors = self.scale or self.method == "awq"
        return Method(grid, effort, factors, self.sequential, self.calibrate_all_experts)

    @property
    def type(self) -> str:
        """As in artifact kinds and folder names: Int4."""
        return f"Int{self.bits}"

    def folder_name(self, model: str) -> str:
        """As the hub has them: <Model>-GPTQ-Int4, <Model>-AWQ."""
        return model + {"awq": "-AWQ"}.get(self.method, f"-GPTQ-{self.type}")


def quantization_config(
    scheme: Scheme, towers: Sequence[str], calibration: JsonObject, head: str = gptq_layout.HEAD
) -> JsonDict:
    """config.json's `quantization_config` and the whole of quantize_config.json.

    `towers` are the beginnings of vision tower and projector, `head` is the head's module: they are not quantized.

    Who reads which word: `modules_to_not_convert` transformers and vLLM (AWQ); `dynamic` gptqmodel and vLLM (GPTQ);
    transformers' GPTQ (optimum) knows decoder layers by their place and takes nothing else; `version` AutoAWQ and
    vLLM, `format` and `checkpoint_format` gptqmodel.
    """
    meta: JsonDict = {"quantizer": [f"convert:{RELEASE}"], "calibration": dict(calibration)}
    if scheme.method == "gptq" and scheme.scale:
        meta["factors"] = True  # norms have other weights than the source's
    common = {
        "quant_method": scheme.method,
        "bits": scheme.bits,
        "group_size": scheme.group_size,
        "desc_act": scheme.desc_act,
        "lm_head": False,
        "modules_to_not_convert": gptq_layout.exclusions(towers, head),
        "pack_dtype": "int32",
        "meta": meta,
    }
    if scheme.method == "awq":
        return common | {"zero_point": not scheme.symmetric, "version": "gemm", "format": "gemm"}
    excluded = gptq_layout.dynamic(towers)
    return common | {
        "sym": scheme.symmetric,
        "damp_percent": scheme.damp,
        "true_sequential": scheme.sequential,
        "checkpoint_format": "gptq",
        "format": "gptq",
        **({"dynamic": excluded} if excluded else {}),
    }
