"""Qwen3.5-MoE with vision: the tower of Qwen3-VL, of whose earlier layers the text sees nothing."""

from __future__ import annotations

from convert.architectures import _qwen_vision as qwen
from convert.architectures import qwen3_5_moe
from convert.architectures._family import Family
from convert.architectures.qwen3_5_vision import vision

FAMILY = Family(
    name="qwen3_5_moe_vision",
    title="Qwen3.5-MoE with vision",
    classes=("Qwen3_5MoeForConditionalGeneration",),
    text=qwen3_5_moe.text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
