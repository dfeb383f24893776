"""Idefics3 and SmolVLM: Llama's text, SigLIP over square tiles, squares of patches put side by side and projected."""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures import _vit as vit
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._mmproj import MAX_IMAGE, image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (
    ("model.text_model.", "model."),
    ("model.vision_model.", "vision."),
    ("model.connector.", "connector."),
)

TEXT = "llama"
ROWS: tuple[TensorRule, ...] = (
    *vit.SIGLIP,
    ("connector.modality_projection.proj.weight", "mm.model.fc.weight", ("text", "merged")),
)
DEFAULTS = {  # transformers' own, which SmolVLM2's configs leave out
    "hidden_size": 1152,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 32,
    "layer_norm_eps": 1e-6,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(_with_epsilon(values), TEXT)


def _with_epsilon(values: JsonObject) -> JsonObject:
    """The config with the epsilon that these models mean where it is silent, which is not Llama's."""
    inner = Config(values).sub("text_config").with_defaults(rms_norm_eps=1e-5)
    return {**values, "text_config": inner.values} if isinstance(values.get("text_config", {}), Mapping) else values


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the connector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    tower = vit.read_vit(config, "idefics3", text_width, ("gelu_pytorch_tanh",))
    merge = root.size("scale_factor", 2, 64)
    vit.divided(root, tower, merge, "scale_factor")
    images = image_config(preprocessor, config.problems)
    fields = [
        *vision_fields(tower, images),
        Field.uint32("clip.vision.projector.scale_factor", merge),
        Field.uint32("clip.vision.preproc_image_size", _longest_edge(images, tower.image_size)),
    ]
    root.finish()
    sizes = vit.vit_sizes(tower, merged=tower.width * merge**2)
    return GraphSpec("clip", tuple(fields), expand(ROWS, sizes, {"patches": vit.FLOAT32}, tower.layers))


def _longest_edge(images: Config, tile: int) -> int:
    """Pixels of the longer side that an image is given before it is cut into tiles."""
    edge = images.sub("size").size("longest_edge", tile, MAX_IMAGE)
    if images.has("max_image_size") and images.sub("max_image_size").size("longest_edge", tile, MAX_IMAGE) != tile:
        got = images.sub("max_image_size").values.get("longest_edge")
        images.complain("max_image_size", got, f"{tile}, the tower's image_size", "llama.cpp cuts no other tiles")
    return edge


FAMILY = Family(
    name="idefics3",
    title="Idefics3 and SmolVLM",
    classes=("Idefics3ForConditionalGeneration", "SmolVLMForConditionalGeneration"),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "connector."),
    renames=RENAMES,
    graphs="images",
)
