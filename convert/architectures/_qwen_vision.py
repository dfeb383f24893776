"""What Qwen's models with vision have in common: text with positions on three axes, patches over two frames."""

from __future__ import annotations

from collections.abc import Iterable

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._graph_spec import GraphSpec, LeftOut, OutputTensor, SourceTensor, TensorRule, View
from convert.architectures._mmproj import VisionTower
from convert.json_types import JsonObject

TEMPORAL_PATCH = 2  # frames under one patch; a still image is two equal frames
EPSILON = 1e-6  # of the towers' norms: fixed in transformers, in no config

# newer transformers, and writers that save the wrapped modules as they are, put a level in between
RENAMES = (("model.language_model.", "model."), ("model.visual.", "visual."), ("language_model.", ""))
FREQUENCIES = LeftOut("rotary_pos_emb.inv_freq", "llama.cpp computes the vision tower's frequencies itself")

_V, _B = "visual.blocks.{i}", "v.blk.{i}"
_PARTS = tuple(f"{_B}.attn_{which}" for which in "qkv")
MERGER: tuple[TensorRule, ...] = (
    ("visual.merger.mlp.0.weight", "mm.0.weight", ("merged", "merged")),
    ("visual.merger.mlp.0.bias", "mm.0.bias", ("merged",)),
    ("visual.merger.mlp.2.weight", "mm.2.weight", ("text", "merged")),
    ("visual.merger.mlp.2.bias", "mm.2.bias", ("text",)),
)
QKV: tuple[TensorRule, ...] = (
    (f"{_V}.attn.qkv.weight", tuple(f"{name}.weight" for name in _PARTS), ("width+width+width", "width")),
    (f"{_V}.attn.qkv.bias", tuple(f"{name}.bias" for name in _PARTS), ("width+width+width",)),
)
ATTENTION_OUT: tuple[TensorRule, ...] = (
    (f"{_V}.attn.proj.weight", f"{_B}.attn_out.weight", ("width", "width")),
    (f"{_V}.attn.proj.bias", f"{_B}.attn_out.bias", ("width",)),
)
NORMS: tuple[TensorRule, ...] = (
    (f"{_V}.norm1.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_V}.norm2.weight", f"{_B}.ln2.weight", ("width",)),
)


def text_config(values: JsonObject) -> Config:
    """The language model's config: at the top, or under text_config; transformers ties when either level says so."""
    root = Config(values)
    config = root.merged("text_config")
    tied = root.flag("tie_word_embeddings") or root.sub("text_config").flag("tie_word_embeddings")
    return Config({**config.values, "tie_word_embeddings": tied}, config.where, config.problems)


def check_sections(decoder: Decoder) -> None:
    """Add a problem unless every frequency of a head turns with time, height or width."""
    assert decoder.rope is not None
    sections = decoder.rope.sections
    if not sections or len(sections) > 4 or sum(sections) * 2 != decoder.head_dim:
        wanted = f"up to four numbers that add up to half the head size, {decoder.head_dim // 2}"
        decoder.rope.values.complain("mrope_section", list(sections) or None, wanted)


def text_spec(values: JsonObject, graph: Graph, rows: Iterable[TensorRule]) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(text_config(values), graph)
    check_sections(decoder)
    return decoder_spec(decoder, rows)


def check_tower(config: Config, tower: VisionTower) -> None:
    """Add the problems of a tower that llama.cpp's graphs cannot run."""
    config.require("temporal_patch_size", TEMPORAL_PATCH)
    config.require("spatial_merge_size", 2, "what llama.cpp's graph is built for")
    config.require("in_channels", 3)
    config.require("in_chans", 3)
    if tower.width % tower.heads or tower.width // tower.heads % 4:
        got, wanted = tower.heads, f"a divisor of the tower's width, {tower.width}, with heads of 4, 8, 12, ..."
        config.complain("num_heads", got, wanted)


def patch_embedding(width: int, patch: int) -> SourceTensor:
    """The Conv3d over two frames becomes two Conv2d, whose results llama.cpp adds."""

    def frame(number: int) -> View:
        return lambda weight: weight[:, :, number]

    shape = (width, 3, patch, patch)
    outputs = tuple(
        OutputTensor(f"v.patch_embd.weight{suffix}", shape, frame(number)) for number, suffix in enumerate(("", ".1"))
    )
    return SourceTensor("visual.patch_embed.proj.weight", (width, 3, TEMPORAL_PATCH, patch, patch), outputs)
