"""Mistral 3 with vision (Mistral Small 3.1, Ministral 3): Pixtral's tower, squares of patches merged, projected."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _pixtral as pixtral
from convert.architectures import mistral3
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._mmproj import image_config
from convert.architectures._nested import nested_text, text_values
from convert.json_types import JsonObject

TEXT = "mistral"
TEXTS = {TEXT: mistral3.text, mistral3.SCALED: mistral3.text}
DEFAULTS = {"hidden_size": 5120, "vocab_size": 131072}  # transformers' own, of a Mistral 3's text


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT, TEXTS)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    inner = Config(text_values(values, TEXT), problems=root.problems).with_defaults(**DEFAULTS)
    epsilon = inner.number("rms_norm_eps", pixtral.EPSILON)
    if epsilon != pixtral.EPSILON:
        inner.complain(
            "rms_norm_eps", epsilon, "1e-5", "llama.cpp's pixtral graph gives the projector's norm the tower's"
        )
    around = pixtral.Pixtral(
        "pixtral", inner.size("hidden_size"), inner.size("vocab_size"), root.size("spatial_merge_size", 2, 64)
    )
    tower = pixtral.read_tower(root.sub("vision_config"), around)
    rows = [*pixtral.MERGER, *pixtral.projector_rows(root, default=False)]
    ends = pixtral.break_embedding(root, around)
    made = pixtral.pixtral_spec(root, tower, around, image_config(preprocessor, root.problems), rows)
    return replace(made, tensors=(*made.tensors, ends))


FAMILY = Family(
    name="mistral3_vision",
    title="Mistral 3 with vision (Mistral Small 3.1, Ministral 3 …)",
    classes=("Mistral3ForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=pixtral.RENAMES,
    token_ids=pixtral.TOKEN_IDS,
    graphs="",
)
