"""Plain vision transformers, SigLIP and CLIP: the numbers of one, checked, and its rows under the names they share.

Families rename what stands in front to "vision."; a class token and norms before or after are their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._graph_spec import TensorRule, Transform
from convert.architectures._mmproj import MAX_IMAGE, VisionTower
from convert.architectures._rows import biases

RENAMES = (  # of transformers' models of a tower, a projector of several modules, and a text model of any family
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.vision_model.", "vision."),
    ("model.language_model.", "model."),
    ("model.vision_tower.vision_model.", "vision."),
    ("model.vision_tower.", "vision."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
)
V, B = "vision.encoder.layers.{i}", "v.blk.{i}"
WEIGHTS: tuple[TensorRule, ...] = (
    (f"{V}.self_attn.q_proj.weight", f"{B}.attn_q.weight", ("width", "width")),
    (f"{V}.self_attn.k_proj.weight", f"{B}.attn_k.weight", ("width", "width")),
    (f"{V}.self_attn.v_proj.weight", f"{B}.attn_v.weight", ("width", "width")),
    (f"{V}.self_attn.out_proj.weight", f"{B}.attn_out.weight", ("width", "width")),
    (f"{V}.layer_norm1.weight", f"{B}.ln1.weight", ("width",)),
    (f"{V}.layer_norm2.weight", f"{B}.ln2.weight", ("width",)),
    (f"{V}.mlp.fc1.weight", f"{B}.ffn_up.weight", ("ffn", "width")),
    (f"{V}.mlp.fc2.weight", f"{B}.ffn_down.weight", ("width", "ffn")),
)
LAYERS: tuple[TensorRule, ...] = (*WEIGHTS, *biases(WEIGHTS))
EMBEDDINGS: tuple[TensorRule, ...] = (
    (
        "vision.embeddings.patch_embedding.weight",
        "v.patch_embd.weight",
        ("width", "colours", "patch", "patch"),
        "patches",
    ),
    ("vision.embeddings.position_embedding.weight", "v.position_embd.weight", ("positions", "width")),
)
POST_NORM: tuple[TensorRule, ...] = (
    ("vision.post_layernorm.weight", "v.post_ln.weight", ("width",)),
    ("vision.post_layernorm.bias", "v.post_ln.bias", ("width",)),
)
SIGLIP: tuple[TensorRule, ...] = (
    *EMBEDDINGS,
    ("vision.embeddings.patch_embedding.bias", "v.patch_embd.bias", ("width",)),
    *LAYERS,
    *POST_NORM,
)

FLOAT32 = Transform(type="F32")
FLOAT16 = Transform(type="F16")

SIGLIP_DEFAULTS = {  # transformers' own, of siglip_vision_model
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
}


def read_vit(config: Config, projector: str, text_width: int, activations: Sequence[str]) -> VisionTower:
    """The tower a vision config describes; the first of `activations` is meant where it is silent."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require("num_channels", 3)
    if width % heads:
        config.complain("num_attention_heads", heads, f"a divisor of hidden_size, {width}")
    tower = VisionTower(
        projector,
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        width=width,
        ffn=config.size("intermediate_size"),
        heads=heads,
        patch=side(config, "patch_size", 1024),
        image_size=side(config, "image_size", MAX_IMAGE),
        text_width=text_width,
        epsilon=config.number("layer_norm_eps"),
        activation=config.word(
            "hidden_act", activations[0], activations, "llama.cpp's graph of this tower has no other"
        ),
    )
    if tower.patch > tower.image_size:
        config.complain("patch_size", tower.patch, f"at most image_size, {tower.image_size}")
    return tower


def side(config: Config, key: str, most: int) -> int:
    """Pixels along a side of a square, which may be written as one number or two equal ones."""
    value = config.values.get(key)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == value[1]:
        return Config({key: value[0]}, config.where, config.problems).size(key, most=most)
    return config.size(key, most=most)


def vit_sizes(tower: VisionTower, **more: int) -> Mapping[str, int]:
    """Names of dimensions in the tables -> their sizes."""
    across = max(1, tower.image_size // tower.patch)
    return {
        "width": tower.width,
        "ffn": tower.ffn,
        "colours": 3,
        "patch": tower.patch,
        "positions": across**2,
        "text": tower.text_width,
        **more,
    }


def divided(config: Config, tower: VisionTower, by: int, key: str) -> int:
    """Patches along a side of an image; a problem unless `by` of them make one token, without a rest."""
    across = tower.image_size // tower.patch
    if across % by or not across:
        config.complain(key, by, f"a divisor of the {across} patches along a side of an image")
    return across
