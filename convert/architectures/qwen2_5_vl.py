"""Qwen2.5-VL: Qwen2's decoder with positions in time, height and width, and a vision tower with window attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Graph, decoder_part, read_decoder
from convert.architectures._part import LeftOut, Part, Row, Target, View, Wanted, expand
from convert.architectures._rope import Rotary
from convert.architectures.qwen2 import ROWS
from convert.gguf.mmproj import VisionTower, vision_fields

CLASSES = ("Qwen2_5_VLForConditionalGeneration",)

# newer transformers, and writers that save the wrapped modules as they are, put a level in between
VISION = "visual."
RENAMES = (("model.language_model.", "model."), ("model.visual.", "visual."), ("language_model.", ""))

GRAPH = Graph("qwen2vl", rotary=Rotary(theta=1000000.0), square=True)
TEMPORAL_PATCH = 2  # frames under one patch; a still image is two equal frames
VISION_EPSILON = 1e-6  # fixed in transformers' Qwen2_5_VLVisionBlock, in no config

_V, _B = "visual.blocks.{i}", "v.blk.{i}"
_QKV = tuple(f"{_B}.attn_{which}" for which in "qkv")
TOWER: tuple[Row, ...] = (
    (f"{_V}.attn.qkv.weight", tuple(f"{name}.weight" for name in _QKV), ("width+width+width", "width")),
    (f"{_V}.attn.qkv.bias", tuple(f"{name}.bias" for name in _QKV), ("width+width+width",)),
    (f"{_V}.norm1.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_V}.norm2.weight", f"{_B}.ln2.weight", ("width",)),
    (f"{_V}.attn.proj.weight", f"{_B}.attn_out.weight", ("width", "width")),
    (f"{_V}.attn.proj.bias", f"{_B}.attn_out.bias", ("width",)),
    (f"{_V}.mlp.gate_proj.weight", f"{_B}.ffn_gate.weight", ("ffn", "width")),
    (f"{_V}.mlp.gate_proj.bias", f"{_B}.ffn_gate.bias", ("ffn",)),
    (f"{_V}.mlp.up_proj.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.up_proj.bias", f"{_B}.ffn_up.bias", ("ffn",)),
    (f"{_V}.mlp.down_proj.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    (f"{_V}.mlp.down_proj.bias", f"{_B}.ffn_down.bias", ("width",)),
    ("visual.merger.ln_q.weight", "v.post_ln.weight", ("width",)),
    ("visual.merger.mlp.0.weight", "mm.0.weight", ("merged", "merged")),
    ("visual.merger.mlp.0.bias", "mm.0.bias", ("merged",)),
    ("visual.merger.mlp.2.weight", "mm.2.weight", ("text", "merged")),
    ("visual.merger.mlp.2.bias", "mm.2.bias", ("text",)),
)
VISION_FREQUENCIES = LeftOut("rotary_pos_emb.inv_freq", "llama.cpp computes the vision tower's frequencies itself")


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    root = Config(values)
    config = root.merged("text_config")
    # transformers ties when either level says so
    tied = root.flag("tie_word_embeddings") or root.sub("text_config").flag("tie_word_embeddings")
    config = Config({**config.values, "tie_word_embeddings": tied}, config.where, config.problems)
    decoder = read_decoder(config, GRAPH)
    assert decoder.rope is not None
    sections = decoder.rope.sections
    if not sections or len(sections) > 4 or sum(sections) * 2 != decoder.head_dim:
        wanted = f"up to four numbers that add up to half the head size, {decoder.head_dim // 2}"
        decoder.rope.values.complain("mrope_section", list(sections) or None, wanted)
    return decoder_part(decoder, ROWS)


def vision(values: Mapping[str, Any], preprocessor: Mapping[str, Any]) -> Part:
    """The vision tower and the merger, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config = root.sub("vision_config")
    text_width = root.merged("text_config").size("hidden_size")
    tower = VisionTower(
        projector="qwen2.5vl_merger",
        layers=config.size("depth", most=MAX_LAYERS),
        width=config.size("hidden_size"),
        ffn=config.size("intermediate_size"),
        heads=config.size("num_heads"),
        patch=config.size("patch_size", most=1024),
        image_size=config.size("image_size", 560),  # only llama.cpp's warm-up looks at it: images keep their shape
        text_width=text_width,
        epsilon=VISION_EPSILON,
        activation=config.word("hidden_act", "silu", ("silu", "gelu", "quick_gelu")),
        merge=config.size("spatial_merge_size", 2),
        window=config.size("window_size", 112),
        full_attention_every=_full_attention_every(config),
    )
    _require(config, "out_hidden_size", text_width, "the text model's hidden_size")
    _require(config, "temporal_patch_size", TEMPORAL_PATCH)
    _require(config, "spatial_merge_size", 2, "what llama.cpp's graph is built for")
    _require(config, "window_size", 112, "what llama.cpp's graph is built for")
    for spelling in ("in_channels", "in_chans"):
        _require(config, spelling, 3)
    if tower.width % tower.heads or tower.width // tower.heads % 4:
        config.complain(
            "num_heads", tower.heads, f"a divisor of hidden_size, {tower.width}, with heads of 4, 8, 12, ..."
        )
    fields, notes = vision_fields(tower, preprocessor, config.problems)
    root.finish()
    merged = tower.width * tower.merge**2
    sizes = {"width": tower.width, "ffn": tower.ffn, "merged": merged, "text": text_width}
    wanted = (
        _patch_embedding(tower.width, tower.patch),
        *expand(TOWER, sizes, layers=tower.layers),
    )
    return Part("clip", tuple(fields), wanted, left_out=(VISION_FREQUENCIES,), notes=tuple(notes))


def _require(config: Config, key: str, value: int, why: str = "") -> None:
    if config.has(key) and config.values[key] != value:
        config.complain(key, config.values[key], f"{value}" + (f", {why}" if why else ""))


def _full_attention_every(config: Config) -> int:
    """n when exactly the blocks n-1, 2n-1, ... see the entire image; llama.cpp can say no other pattern."""
    depth = config.size("depth", most=MAX_LAYERS)
    indexes = config.sizes("fullatt_block_indexes")
    every = indexes[0] + 1 if indexes else depth + 1  # never
    if list(indexes) != list(range(every - 1, depth, every)):
        config.complain(
            "fullatt_block_indexes", list(indexes), f"every n-th of {depth} blocks, as in [7, 15, 23, 31] of 32"
        )
    return every


def _patch_embedding(width: int, patch: int) -> Wanted:
    """The Conv3d over two frames becomes two Conv2d, whose results llama.cpp adds."""

    def frame(number: int) -> View:
        return lambda weight: weight[:, :, number]

    shape = (width, 3, patch, patch)
    targets = tuple(
        Target(f"v.patch_embd.weight{suffix}", shape, frame(number)) for number, suffix in enumerate(("", ".1"))
    )
    return Wanted("visual.patch_embed.proj.weight", (width, 3, TEMPORAL_PATCH, patch, patch), targets)
