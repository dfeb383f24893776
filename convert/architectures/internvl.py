"""InternVL 3, as transformers has it: Qwen2's or Llama's text, InternViT over tiles, squares of patches joined."""

from __future__ import annotations

from convert.architectures import _vit as vit
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import GELU_NOTE
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._mmproj import VisionTower, image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.architectures._rows import biases, named
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "vision."),
    ("model.language_model.", "model."),
    ("model.vision_tower.", "vision."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)

TEXT = "qwen2"
DEFAULTS = {  # transformers' own
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 448,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
}
BIG = (3200, 45)  # width and layers of the tower that llama.cpp gives RMS norms (models/internvl.cpp)
_V, _M = "vision.encoder.layer.{i}", "multi_modal_projector"
_NAMES = (
    ("encoder.layers.", "encoder.layer."),
    ("self_attn.out_proj", "attention.projection_layer"),
    ("self_attn", "attention"),
    ("layer_norm1", "layernorm_before"),
    ("layer_norm2", "layernorm_after"),
)
LAYERS = tuple(named(vit.WEIGHTS, *_NAMES))
QKV = tuple(row for row in LAYERS if row[0].endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")))
OTHERS = tuple(row for row in LAYERS if row not in QKV)
NORMS = tuple(row for row in OTHERS if "layernorm" in row[0])
QK_NORM: tuple[TensorRule, ...] = (
    (f"{_V}.attention.q_norm.weight", f"{vit.B}.attn_q_norm.weight", ("width",)),
    (f"{_V}.attention.k_norm.weight", f"{vit.B}.attn_k_norm.weight", ("width",)),
)
ROWS: tuple[TensorRule, ...] = (
    *LAYERS,
    *biases(row for row in OTHERS if row not in NORMS),
    (f"{_V}.lambda_1", f"{vit.B}.ls1.weight", ("width",)),
    (f"{_V}.lambda_2", f"{vit.B}.ls2.weight", ("width",)),
    (
        "vision.embeddings.patch_embeddings.projection.weight",
        "v.patch_embd.weight",
        ("width", "colours", "patch", "patch"),
    ),
    ("vision.embeddings.cls_token", "v.class_embd", ("one", "one", "width")),
    ("vision.embeddings.position_embeddings", "v.position_embd.weight", ("one", "positions", "width")),
    ("vision.embeddings.patch_embeddings.projection.bias", "v.patch_embd.bias", ("width",)),
    (f"{_M}.layer_norm.weight", "mm.model.mlp.0.weight", ("merged",)),
    (f"{_M}.layer_norm.bias", "mm.model.mlp.0.bias", ("merged",)),
    (f"{_M}.linear_1.weight", "mm.model.mlp.1.weight", ("text", "merged")),
    (f"{_M}.linear_1.bias", "mm.model.mlp.1.bias", ("text",)),
    (f"{_M}.linear_2.weight", "mm.model.mlp.3.weight", ("text", "text")),
    (f"{_M}.linear_2.bias", "mm.model.mlp.3.bias", ("text",)),
)
CLASS_NOTE = (
    "llama.cpp b11549 puts the class token behind the patches and gives each patch of an InternVL image the position "
    "of the one before it: its image embeddings differ from the source's"
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    tower = vit.read_vit(config, "internvl", text_width, ("gelu", "silu"))
    _check(root, config, tower)
    merge = 2
    vit.divided(root, tower, merge, "downsample_ratio")
    images = image_config(preprocessor, config.problems)
    fields = [
        *vision_fields(tower, images),
        Field.uint32("clip.vision.projector.scale_factor", merge),
        *_tiles(images),
    ]
    rows = [*ROWS, *(QK_NORM if config.flag("use_qk_norm") else ())]
    rows += [*biases(QKV)] if config.flag("attention_bias") else []
    rows += [*biases(NORMS)] if config.values.get("norm_type", "layer_norm") == "layer_norm" else []
    root.finish()
    sizes = vit.vit_sizes(tower, merged=tower.width * merge**2)
    return GraphSpec(
        "clip",
        tuple(fields),
        expand(rows, {**sizes, "one": 1, "positions": sizes["positions"] + 1}, layers=tower.layers),
        notes=(*((GELU_NOTE,) if tower.activation == "gelu" else ()), CLASS_NOTE),
    )


def _check(root: Config, config: Config, tower: VisionTower) -> None:
    """Add the problems of a model that llama.cpp's internvl graph cannot run."""
    why = "llama.cpp's internvl graph has no other"
    root.require("downsample_ratio", 0.5, why)
    root.require("vision_feature_layer", -1, why)
    root.require("vision_feature_select_strategy", "default", why)
    root.word("projector_hidden_act", "gelu", ("gelu",), why)
    norm = "rms_norm" if (tower.width, tower.layers) == BIG else "layer_norm"
    config.word("norm_type", norm, (norm,), "llama.cpp tells which by the tower's width and layers")
    if norm == "rms_norm" and not config.has("norm_type"):
        config.complain("norm_type", "missing", norm)
    config.require("use_mask_token", False, why)
    config.require("use_absolute_position_embeddings", True, why)
    config.require("use_mean_pooling", True, "llama.cpp's internvl graph has no norm behind the tower")
    config.size("num_hidden_layers", most=MAX_LAYERS)


def _tiles(images: Config) -> list[Field]:
    """How many tiles an image may be cut into, where the processor says so."""
    found = {
        name: images.size(f"{name}_patches", most=1024) for name in ("min", "max") if images.has(f"{name}_patches")
    }
    if found.get("min", 1) > found.get("max", 12):
        images.complain("min_patches", found["min"], f"at most max_patches, {found.get('max', 12)}")
    return [Field.uint32(f"clip.vision.preproc_{name}_tiles", value) for name, value in found.items()]


FAMILY = Family(
    name="internvl",
    title="InternVL 3",
    classes=("InternVLForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=RENAMES,
    graphs="images",
)
