"""Qwen3.5 with vision: the tower of Qwen3-VL, of whose earlier layers the text sees nothing."""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures import _qwen_vision as qwen
from convert.architectures import qwen3_5, qwen3_vl
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonObject


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the merger, for the mmproj file. Raises PlanError with every problem of both configs."""
    inner = values.get("vision_config")
    given = inner if isinstance(inner, Mapping) else {}
    seen = {**given, "deepstack_visual_indexes": given.get("deepstack_visual_indexes") or []}
    return qwen3_vl.vision({**values, "vision_config": seen if given else inner}, preprocessor)


FAMILY = Family(
    name="qwen3_5_vision",
    title="Qwen3.5 with vision",
    classes=("Qwen3_5ForConditionalGeneration",),
    text=qwen3_5.text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
