"""Command-A Vision: Command-A's text in a model that sees; llama.cpp has no projector of its kind."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import cohere2
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures._nested import inner_config
from convert.json_types import JsonObject

TOWERS = tuple(
    LeftOut("", "of the tower or its projector, which llama.cpp does not have", prefix=prefix)
    for prefix in ("vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector.")
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    spec = cohere2.text(inner_config(values).values)
    return replace(spec, left_out=(*spec.left_out, *TOWERS))


FAMILY = Family(
    name="cohere2_vision",
    title="Command-A Vision",
    classes=("Cohere2VisionForConditionalGeneration",),
    text=text,
    renames=(("language_model.", ""), ("model.language_model.", "model.")),
    graphs="images",
)
