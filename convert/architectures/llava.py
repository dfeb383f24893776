"""LLaVA 1.5: Llama's or another's text, all but the last layers of a CLIP tower, a projector of two layers.

Pixtral 12B is published as one with a tower of its own."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _pixtral as pixtral
from convert.architectures import _vit as vit
from convert.architectures._config import Config
from convert.architectures._decoder import GELU_NOTE
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._mmproj import VisionTower, image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.gguf_field import Field
from convert.json_types import JsonObject

TEXT = "llama"
ROWS: tuple[TensorRule, ...] = (
    *vit.EMBEDDINGS,
    *vit.LAYERS,
    ("vision.embeddings.class_embedding", "v.class_embd", ("width",)),
    ("vision.pre_layrnorm.weight", "v.pre_ln.weight", ("width",)),
    ("vision.pre_layrnorm.bias", "v.pre_ln.bias", ("width",)),
    ("multi_modal_projector.linear_1.weight", "mm.0.weight", ("text", "width")),
    ("multi_modal_projector.linear_1.bias", "mm.0.bias", ("text",)),
    ("multi_modal_projector.linear_2.weight", "mm.2.weight", ("text", "text")),
    ("multi_modal_projector.linear_2.bias", "mm.2.bias", ("text",)),
)
CLIP_DEFAULTS = {  # those that transformers gives a LLaVA's tower
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "layer_norm_eps": 1e-5,
}
# models/llava.cpp puts the class token behind the patches, and then takes the first position for its own and drops the
# first token for it
CLASS_NOTE = (
    "llama.cpp b11549 gives every patch of a LLaVA image the position of the one before it, and the class token in "
    "place of the first patch: its image embeddings differ from the source's"
)
GELU_NOTES = (f"projector: {GELU_NOTE}", CLASS_NOTE)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    if root.sub("vision_config").values.get("model_type") == "pixtral":
        return _pixtral(root, preprocessor)
    config = root.sub("vision_config").with_defaults(**CLIP_DEFAULTS)
    config.require("model_type", "clip_vision_model", "llama.cpp's llava graph has no other tower")
    tower = vit.read_vit(config, "mlp", text_width, ("quick_gelu", "gelu"))
    root.word("projector_hidden_act", "gelu", ("gelu",), "llama.cpp's llava graph has no other")
    root.require("multimodal_projector_bias", True, "llama.cpp's llava graph adds it")
    root.require("vision_feature_select_strategy", "default", "llama.cpp's llava graph leaves the class token out")
    used = _used_layers(root, tower)
    fields = [*vision_fields(tower, image_config(preprocessor, root.problems))]
    fields = [Field.uint32(f.key, used) if f.key == "clip.vision.block_count" else f for f in fields]
    fields.append(Field.int32s("clip.vision.feature_layer", [used]))
    root.finish()
    sizes = vit.vit_sizes(tower)
    sizes = {**sizes, "positions": sizes["positions"] + 1}
    later = [f"vision.encoder.layers.{layer}." for layer in range(used, tower.layers)]
    reason = "the model takes what comes out of an earlier layer"
    left_out = [LeftOut("", reason, prefix=prefix) for prefix in (*later, "vision.post_layernorm.")]
    return GraphSpec(
        "clip", tuple(fields), expand(ROWS, sizes, layers=used), left_out=tuple(left_out), notes=GELU_NOTES
    )


def _pixtral(root: Config, preprocessor: JsonObject) -> GraphSpec:
    """The mmproj file of Pixtral 12B, whose tower takes images of any shape and all whose patches are used."""
    inner = Config(text_values(root.values, TEXT), problems=root.problems)
    around = pixtral.Pixtral("pixtral", inner.size("hidden_size"), inner.size("vocab_size"))
    tower = pixtral.read_tower(root.sub("vision_config"), around)
    root.with_defaults(vision_feature_select_strategy="default").require(
        "vision_feature_select_strategy", "full", "Pixtral's tower has no class token to leave out"
    )
    rows = [*pixtral.projector_rows(root.with_defaults(vision_feature_layer=-2), default=True)]
    ends = pixtral.break_embedding(root, around)
    made = pixtral.pixtral_spec(root, tower, around, image_config(preprocessor, root.problems), rows)
    return replace(made, tensors=(*made.tensors, ends))


def _used_layers(root: Config, tower: VisionTower) -> int:
    """How many layers of the tower an image goes through; -2 says all but the last."""
    layer = root.values.get("vision_feature_layer", -2)
    if isinstance(layer, bool) or not isinstance(layer, int) or not -tower.layers <= layer <= tower.layers or not layer:
        wanted = f"one layer of {tower.layers}, counted from 1 or, backwards, from -1"
        root.complain("vision_feature_layer", layer, wanted)
        return tower.layers
    return layer if layer > 0 else tower.layers + 1 + layer


FAMILY = Family(
    name="llava",
    title="LLaVA 1.5, Pixtral",
    classes=("LlavaForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=pixtral.RENAMES,
    token_ids=pixtral.TOKEN_IDS,
    graphs="images",
    tested=("onnx",),
)
