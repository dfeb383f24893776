"""Gemma 3 with vision: Gemma 3's text, SigLIP over square images, squares of 4 x 4 patches averaged into a token."""

from __future__ import annotations

import math

from convert.architectures import _vit as vit
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._mmproj import image_config, vision_fields
from convert.architectures._nested import nested_text, text_values
from convert.architectures.gemma3 import DEFAULTS
from convert.gguf_field import Field
from convert.json_types import JsonObject

TEXT = "gemma3_text"
USUAL_POOLING = 4  # patches a side that become a token, where the file says nothing (clip.cpp, load_hparams)
_M = "multi_modal_projector.mm"
ROWS: tuple[TensorRule, ...] = (
    *vit.SIGLIP,
    (f"{_M}_input_projection_weight", "mm.input_projection.weight", ("width", "text"), "projection"),
    (f"{_M}_soft_emb_norm.weight", "mm.soft_emb_norm.weight", ("width",), "norm"),
)
# the graph turns the projection over, which ggml cannot do with blocks (llama.cpp, issue 13025)
TRANSFORMS = {"patches": vit.FLOAT32, "projection": vit.FLOAT16, "norm": PLUS_ONE}
HEAD = LeftOut("", "the tower's own head, which the model does not use", prefix="vision.head.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    inner = Config(text_values(values, TEXT), problems=root.problems).with_defaults(**DEFAULTS)
    config = root.sub("vision_config").with_defaults(**vit.SIGLIP_DEFAULTS)
    tower = vit.read_vit(config, "gemma3", inner.size("hidden_size"), ("gelu_pytorch_tanh",))
    images = image_config(preprocessor, config.problems)
    tokens = root.size("mm_tokens_per_image", 256)
    images.require("image_seq_length", tokens, "the config's mm_tokens_per_image")
    across = tower.image_size // tower.patch
    pooling = across // max(1, math.isqrt(tokens))
    if not pooling or pooling**2 * tokens != across**2:
        wanted = f"a square number whose root divides the {across} patches along a side of an image"
        root.complain("mm_tokens_per_image", tokens, wanted)
    fields = [*vision_fields(tower, images)]
    if pooling != USUAL_POOLING:
        fields.append(Field.uint32("clip.vision.projector.scale_factor", pooling))
    root.finish()
    return GraphSpec(
        "clip", tuple(fields), expand(ROWS, vit.vit_sizes(tower), TRANSFORMS, tower.layers), left_out=(HEAD,)
    )


FAMILY = Family(
    name="gemma3_vision",
    title="Gemma 3 with vision",
    classes=("Gemma3ForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "multi_modal_projector."),
    renames=vit.RENAMES,
    graphs="images",
)
