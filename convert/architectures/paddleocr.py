"""PaddleOCR-VL: ERNIE 4.5's layers with positions on three axes, SigLIP over images of any shape."""

from __future__ import annotations

import math

from convert.architectures import _qwen_vision as qwen
from convert.architectures import _vit as vit
from convert.architectures._config import Config
from convert.architectures._decoder import GELU_NOTE, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._mmproj import image_config, pixel_limits, vision_fields
from convert.architectures._rope import Rotary
from convert.architectures._rows import biases
from convert.architectures.ernie4_5 import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (
    ("visual.vision_model.", "vision."),
    ("model.visual.vision_model.", "vision."),
    ("mlp_AR.", "projector."),
    ("model.projector.", "projector."),
    ("model.language_model.", "model."),
)
GRAPH = Graph("paddleocr", default_epsilon=1e-5, rotary=Rotary(theta=500000.0), tied=True)
MERGE = 2
DEFAULTS = {  # transformers' own
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
}
PROJECTOR: tuple[TensorRule, ...] = (
    ("projector.pre_norm.weight", "mm.input_norm.weight", ("width",)),
    ("projector.linear_1.weight", "mm.1.weight", ("merged", "merged")),
    ("projector.linear_2.weight", "mm.2.weight", ("text", "merged")),
)
TOWER: tuple[TensorRule, ...] = (*vit.SIGLIP, *PROJECTOR, *biases(PROJECTOR))
UNUSED = (
    LeftOut("", "the tower's own head, which the model does not use", prefix="vision.head."),
    LeftOut("packing_position_embedding.weight", "the model does not use it", prefix="vision."),
)


def text_config(values: JsonObject) -> Config:
    """The language model's config: at the top, or under text_config, where transformers ties it unless told not to."""
    root = Config(values)
    config = root.merged("text_config").with_defaults(head_dim=128)
    inner = root.sub("text_config")
    owner = inner if inner.has("tie_word_embeddings") and not root.has("tie_word_embeddings") else root
    tied = owner.flag("tie_word_embeddings", GRAPH.tied)
    return Config({**config.values, "tie_word_embeddings": tied}, config.where, config.problems)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(text_config(values), GRAPH)
    qwen.check_sections(decoder)
    decoder.config.require("use_bias", False, "ERNIE's tables have no biases")
    return decoder_spec(decoder, ROWS, head_size_fields(decoder))


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = root.merged("text_config").size("hidden_size", 1024)
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    tower = vit.read_vit(config, "paddleocr", text_width, ("gelu_pytorch_tanh", "gelu"))
    config.require("spatial_merge_size", MERGE, "llama.cpp's paddleocr graph has no other")
    if tower.width // tower.heads % 4:
        config.complain("num_attention_heads", tower.heads, "heads of 4, 8, 12, ... values")
    images = image_config(preprocessor, root.problems)
    limits, notes = pixel_limits(images, (tower.patch * MERGE) ** 2)
    most = next((int(f.value) for f in limits if f.key.endswith("max_pixels") and isinstance(f.value, int)), 0)
    if len(limits) < 2:
        images.complain("min_pixels and max_pixels", "missing", "both", "llama.cpp's paddleocr graph has no limits")
    fields = [f for f in vision_fields(tower, images) if f.key != "clip.vision.image_size"]
    fields.append(Field.uint32("clip.vision.image_size", math.isqrt(most)))  # only its warm-up looks at it
    root.finish()
    sizes = vit.vit_sizes(tower, merged=tower.width * MERGE**2)
    return GraphSpec(
        "clip",
        (*fields, *limits),
        expand(TOWER, sizes, {"patches": vit.FLOAT32}, tower.layers),
        left_out=UNUSED,
        notes=(*notes, f"projector: {GELU_NOTE}"),
    )


FAMILY = Family(
    name="paddleocr",
    title="PaddleOCR-VL",
    classes=("PaddleOCRVLForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "projector."),
    renames=RENAMES,
    graphs="",
)
