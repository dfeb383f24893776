"""LightOnOCR: Qwen3's text, Pixtral's tower, squares of patches merged, no token between the rows."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _pixtral as pixtral
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._mmproj import MAX_IMAGE, image_config
from convert.architectures._nested import nested_text, text_values
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (
    ("model.language_model.", "model."),
    ("model.vision_encoder.", "vision."),
    ("model.vision_projection.", "multi_modal_projector."),
)
TEXT = "qwen3"
DEFAULTS = {"image_size": 1540, "patch_size": 14, "hidden_act": "silu"}  # transformers' own


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    inner = Config(text_values(values, TEXT), problems=root.problems)
    merge = root.size("spatial_merge_size", 2, 64)
    around = pixtral.Pixtral("lightonocr", inner.size("hidden_size", 1024), inner.size("vocab_size", 151936), merge)
    tower = pixtral.read_tower(root.sub("vision_config").with_defaults(**DEFAULTS), around)
    images = image_config(preprocessor, root.problems)
    made = pixtral.pixtral_spec(root, tower, around, images, [*pixtral.MERGER, *pixtral.PROJECTOR])
    size = images.sub("size")
    edge = size.size("longest_edge", most=MAX_IMAGE) if size.has("longest_edge") else tower.image_size
    fields = () if edge == tower.image_size else (Field.uint32("clip.vision.preproc_image_size", edge),)
    return replace(made, fields=(*made.fields, *fields), notes=made.notes[:1])


FAMILY = Family(
    name="lighton_ocr",
    title="LightOnOCR",
    classes=("LightOnOCRForConditionalGeneration", "LightOnOcrForConditionalGeneration"),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=RENAMES,
    graphs="",
)
