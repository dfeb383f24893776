"""LFM2-VL: LFM2's text, SigLIP 2 over images of any shape, squares of patches put side by side and projected."""

from __future__ import annotations

import numpy as np

from convert.architectures import _vit as vit
from convert.architectures import lfm2
from convert.architectures._config import Config
from convert.architectures._decoder import GELU_NOTE
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, OutputTensor, SourceTensor, TensorRule, expand
from convert.architectures._mmproj import image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.architectures._rows import biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

TEXT = "lfm2"
IMAGE_SIZE = 256  # no word of the config: only llama.cpp's warm-up looks at it
MOST_TOKENS = 256  # of an image, and of each of its tiles: clip.cpp, load_hparams
DEFAULTS = {  # transformers' own, of siglip2_vision_model
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_patches": 256,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}
_M = "multi_modal_projector"
ROWS: tuple[TensorRule, ...] = (
    vit.EMBEDDINGS[1],
    ("vision.embeddings.patch_embedding.bias", "v.patch_embd.bias", ("width",)),
    *vit.LAYERS,
    *vit.POST_NORM,
)
NORM: tuple[TensorRule, ...] = ((f"{_M}.layer_norm.weight", "mm.input_norm.weight", ("merged",)),)
PROJECTOR: tuple[TensorRule, ...] = (
    (f"{_M}.linear_1.weight", "mm.1.weight", ("inner", "merged")),
    (f"{_M}.linear_2.weight", "mm.2.weight", ("text", "inner")),
)
HEAD = LeftOut("", "the tower's own head, which the model does not use", prefix="vision.head.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(_tied(values), TEXT, {TEXT: lfm2.text})


def _tied(values: JsonObject) -> JsonObject:
    """The config with the word for tied embeddings in the place where it counts."""
    root = Config(values).spelled(tie_word_embeddings="tie_embedding")
    tied = root.flag("tie_word_embeddings", True)
    inner = {key: value for key, value in root.sub("text_config").values.items() if not key.startswith("tie_")}
    return {**values, "tie_word_embeddings": tied, "text_config": {**inner, "tie_word_embeddings": tied}}


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size", 2560)
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    tower = vit.read_vit(config.with_defaults(image_size=IMAGE_SIZE), "lfm2", text_width, ("gelu_pytorch_tanh",))
    root.require("vision_feature_layer", -1, "llama.cpp's lfm2 graph takes what comes out of the last layer")
    root.word("projector_hidden_act", "gelu", ("gelu",), "llama.cpp's lfm2 graph has no other")
    merge = root.size("downsample_factor", 2, 64)
    images = image_config(preprocessor, root.problems)
    images.require("max_image_tokens", MOST_TOKENS, "llama.cpp gives each tile as many")
    rows = [*ROWS, *PROJECTOR]
    rows += biases(PROJECTOR) if root.flag("projector_bias", True) else []
    rows += [*NORM, *biases(NORM)] if root.flag("projector_use_layernorm", True) else []
    root.finish()
    sizes = {**vit.vit_sizes(tower), "positions": config.size("num_patches"), "merged": tower.width * merge**2}
    sizes["inner"] = root.size("projector_hidden_size", 2560)
    fields = [
        *(f for f in vision_fields(tower, images) if f.key != "clip.vision.image_size"),
        Field.uint32("clip.vision.image_size", IMAGE_SIZE),
        Field.uint32("clip.vision.projector.scale_factor", merge),
    ]
    tensors = (_patches(tower.width, tower.patch), *expand(rows, sizes, layers=tower.layers))
    return GraphSpec("clip", tuple(fields), tensors, left_out=(HEAD,), notes=(f"projector: {GELU_NOTE}",))


def _patches(width: int, side: int) -> SourceTensor:
    """What is a matrix over the values of a patch becomes a convolution: colours come last in the one, first here."""

    def view(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(width, side, side, 3).transpose(0, 3, 1, 2)

    output = OutputTensor("v.patch_embd.weight", (width, 3, side, side), view)
    return SourceTensor("vision.embeddings.patch_embedding.weight", (width, side * side * 3), (output,))


FAMILY = Family(
    name="lfm2_vl",
    title="LFM2-VL",
    classes=("Lfm2VlForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=vit.RENAMES,
    graphs="",
)
