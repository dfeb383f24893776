"""EXAONE 4.5: EXAONE 4's text in a model that sees; its tower is left out."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import exaone4
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures._nested import inner_config
from convert.json_types import JsonObject

BESIDE = (
    LeftOut("", "of the tower, which is no part of the language model", prefix="model.visual."),
    LeftOut("", "of layers that predict further tokens, which llama.cpp's exaone4 graph has not", prefix="mtp."),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    spec = exaone4.text(inner_config(values).values)
    return replace(spec, left_out=(*spec.left_out, *BESIDE))


FAMILY = Family(
    name="exaone4_5",
    title="EXAONE 4.5",
    classes=("Exaone4_5_ForConditionalGeneration",),
    text=text,
    renames=(("model.language_model.", "model."),),
    graphs="",
)
