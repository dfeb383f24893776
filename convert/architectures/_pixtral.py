"""Pixtral's tower, which takes images of any shape: the numbers of one, checked, and its rows.

Behind each row of an image's tokens the text model reads [IMG_BREAK], and [IMG_END] behind the last; llama.cpp gives
the former's embedding together with the image's, from a copy in the mmproj file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from convert.architectures import _vit as vit
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import GELU_NOTE
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule, Transform, expand
from convert.architectures._mmproj import MAX_IMAGE, VisionTower, vision_fields
from convert.architectures._rows import biases
from convert.architectures.llama import pairs_together
from convert.gguf_field import Field

RENAMES = (*vit.RENAMES, ("vision_tower.", "vision."))
TOKEN_IDS = (("image_break_token_id", "[IMG_BREAK]"),)
USUAL_BREAK = 12  # [IMG_BREAK] in all of Mistral's own vocabularies
EPSILON = 1e-5  # of the tower's norms: fixed in transformers, in no config
LLAMA_CPP_MAX_TOKENS = 1024  # clip.cpp, load_hparams: of an image, whatever the file says
DEFAULTS = {  # transformers' own, of pixtral
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 1024,
    "patch_size": 16,
    "hidden_act": "gelu",
}
_V, _B, _M = "vision.transformer.layers.{i}", "v.blk.{i}", "multi_modal_projector"
LAYERS: tuple[TensorRule, ...] = (
    (f"{_V}.attention.q_proj.weight", f"{_B}.attn_q.weight", ("width", "width"), "turned"),
    (f"{_V}.attention.k_proj.weight", f"{_B}.attn_k.weight", ("width", "width"), "turned"),
    (f"{_V}.attention.v_proj.weight", f"{_B}.attn_v.weight", ("width", "width")),
    (f"{_V}.attention.o_proj.weight", f"{_B}.attn_out.weight", ("width", "width")),
    (f"{_V}.attention_norm.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_V}.ffn_norm.weight", f"{_B}.ln2.weight", ("width",)),
    (f"{_V}.feed_forward.gate_proj.weight", f"{_B}.ffn_gate.weight", ("ffn", "width")),
    (f"{_V}.feed_forward.up_proj.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.feed_forward.down_proj.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    ("vision.patch_conv.weight", "v.patch_embd.weight", ("width", "colours", "patch", "patch")),
    ("vision.ln_pre.weight", "v.pre_ln.weight", ("width",)),
)
PROJECTOR: tuple[TensorRule, ...] = (
    (f"{_M}.linear_1.weight", "mm.1.weight", ("text", "width")),
    (f"{_M}.linear_2.weight", "mm.2.weight", ("text", "text")),
)
MERGER: tuple[TensorRule, ...] = (
    (f"{_M}.norm.weight", "mm.input_norm.weight", ("width",)),
    (f"{_M}.patch_merger.merging_layer.weight", "mm.patch_merger.weight", ("width", "merged")),
)


@dataclass(frozen=True)
class Pixtral:
    """What stands around a tower: the text model's width and vocabulary, and how many patches a side make a token."""

    projector: str  # clip.projector_type
    text_width: int
    vocab: int
    merge: int = 1


def read_tower(config: Config, around: Pixtral) -> VisionTower:
    """The tower that a vision config describes."""
    config = config.with_defaults(**DEFAULTS)
    config.word("model_type", "pixtral", ("pixtral",), "llama.cpp's pixtral graph has no other tower")
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    config.require("num_channels", 3)
    if width % heads or width // heads % 4:
        got, wanted = heads, f"a divisor of hidden_size, {width}, with heads of 4, 8, 12, ..."
        config.complain("num_attention_heads", got, wanted)
    config.require("head_dim", width // heads, "transformers takes no other either")
    rope = config.sub("rope_parameters")
    for values in (config, rope):
        if values.has("rope_theta") and values.number("rope_theta") != 10000:
            values.complain(
                "rope_theta", values.values["rope_theta"], "10000", "llama.cpp's pixtral graph has no other"
            )
    return VisionTower(
        around.projector,
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        width=width,
        ffn=config.size("intermediate_size"),
        heads=heads,
        patch=vit.side(config, "patch_size", 1024),
        image_size=vit.side(config, "image_size", MAX_IMAGE),
        text_width=around.text_width,
        epsilon=EPSILON,
        activation=config.word("hidden_act", "gelu", ("silu", "gelu"), "llama.cpp's pixtral graph has no other"),
    )


def pixtral_spec(
    root: Config, tower: VisionTower, around: Pixtral, images: Config, rows: Sequence[TensorRule]
) -> GraphSpec:
    """The mmproj file of a tower with these rows of a projector. Raises PlanError with every problem of the configs."""
    fields = [*vision_fields(tower, images), *_merging(around)]
    notes = [f"projector: {GELU_NOTE}", *_limits(images, tower, around)]
    root.finish()
    sizes = {**vit.vit_sizes(tower), "merged": tower.width * around.merge**2}
    turned = {"turned": Transform(pairs_together(tower.heads))}
    return GraphSpec("clip", tuple(fields), expand([*LAYERS, *rows], sizes, turned, tower.layers), notes=tuple(notes))


def projector_rows(root: Config, default: bool) -> Iterator[TensorRule]:
    """The two layers that every such model has; whether with biases where the config is silent is `default`."""
    root.word("projector_hidden_act", "gelu", ("gelu",), "llama.cpp's pixtral graph has no other")
    root.require("vision_feature_layer", -1, "llama.cpp's pixtral graph takes what comes out of the last layer")
    yield from PROJECTOR
    if root.flag("multimodal_projector_bias", default):
        yield from biases(PROJECTOR)


def break_embedding(root: Config, around: Pixtral) -> SourceTensor:
    """The embedding of [IMG_BREAK], a row of the text model's table."""
    number = root.size("image_break_token_id", USUAL_BREAK, least=0)
    if number >= around.vocab:
        root.complain("image_break_token_id", number, f"below vocab_size, {around.vocab}")
    shape = (around.text_width,)
    output = OutputTensor("v.token_embd.img_break", shape, lambda table: table[number])
    return SourceTensor("model.embed_tokens.weight", (around.vocab, *shape), (output,), borrowed=True)


def _merging(around: Pixtral) -> Iterable[Field]:
    return [Field.uint32("clip.vision.spatial_merge_size", around.merge)] if around.merge > 1 else []


def _limits(images: Config, tower: VisionTower, around: Pixtral) -> list[str]:
    """That llama.cpp makes large images smaller than the source does, where it does."""
    size = images.sub("size")
    most = (size.size("longest_edge", most=MAX_IMAGE) if size.has("longest_edge") else tower.image_size) // (
        tower.patch * around.merge
    )
    if most**2 <= LLAMA_CPP_MAX_TOKENS:
        return []
    return [
        f"the source takes images of up to {most**2} tokens, llama.cpp shrinks them to {LLAMA_CPP_MAX_TOKENS}: run it "
        f"with --image-max-tokens {most**2} to match the source"
    ]
