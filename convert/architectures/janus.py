"""Janus: Llama's text, SigLIP over square images; what draws images (vqmodel) is in no file of llama.cpp's."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _vit as vit
from convert.architectures._config import Config
from convert.architectures._decoder import GELU_NOTE
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._mmproj import image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.architectures._rows import biases, named
from convert.json_types import JsonObject

RENAMES = (
    ("model.language_model.", "model."),
    ("model.vision_model.", "vision."),
    ("model.aligner.", "aligner."),
)
TEXT = "llama"
DEFAULTS = {  # transformers' own
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
LAYERS = tuple(named(vit.WEIGHTS, ("out_proj", "projection_layer")))
QKV = tuple(row for row in LAYERS if row[0].endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")))
OTHERS = tuple(row for row in LAYERS if row not in QKV)
ALIGNER: tuple[TensorRule, ...] = (
    ("aligner.fc1.weight", "mm.0.weight", ("text", "width")),
    ("aligner.hidden_layers.0.weight", "mm.1.weight", ("text", "text")),
)
ROWS: tuple[TensorRule, ...] = (
    *vit.EMBEDDINGS,
    ("vision.embeddings.patch_embedding.bias", "v.patch_embd.bias", ("width",)),
    *LAYERS,
    *biases(OTHERS),
    *vit.POST_NORM,
    *ALIGNER,
    *biases(ALIGNER),
)
DRAWING = ("model.vqmodel.", "model.generation_")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    made = nested_text(values, TEXT)
    drawing = [LeftOut("", "it draws images, which llama.cpp does not", prefix=prefix) for prefix in DRAWING]
    return replace(made, left_out=(*made.left_out, *drawing))


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the aligner, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    ffn = round(config.size("hidden_size") * config.number("mlp_ratio", 4.0))
    tower = vit.read_vit(config.with_defaults(intermediate_size=ffn), "janus_pro", text_width, ("gelu", "silu"))
    why = "llama.cpp's janus_pro graph has no other"
    config.require("use_qk_norm", False, why)
    config.require("depth", 2, why)
    config.require("projection_dim", text_width, "the text model's hidden_size")
    images = image_config(preprocessor, root.problems)
    rows = [*ROWS, *(biases(QKV) if config.flag("attention_bias", True) else ())]
    root.finish()
    return GraphSpec(
        "clip",
        tuple(vision_fields(tower, images)),
        expand(rows, vit.vit_sizes(tower), {"patches": vit.FLOAT32}, tower.layers),
        notes=(GELU_NOTE,) if tower.activation == "gelu" else (),
    )


FAMILY = Family(
    name="janus",
    title="Janus",
    classes=("JanusForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "aligner."),
    renames=RENAMES,
    graphs="",
)
