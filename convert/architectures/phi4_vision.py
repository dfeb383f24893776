"""Phi-4 with vision: Phi-4's text, whose config and names are those of the text alone; its tower is left out."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import phi3
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.json_types import JsonObject

TOWERS = tuple(
    LeftOut("", "of the tower or its projector, which are no part of the language model", prefix=f"model.{name}.")
    for name in ("vision_tower", "mm_projector")
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    spec = phi3.text(values)
    return replace(spec, left_out=(*spec.left_out, *TOWERS))


FAMILY = Family(
    name="phi4_vision",
    title="Phi-4 with vision",
    classes=("Phi4ForCausalLMV",),
    text=text,
    graphs="",
)
