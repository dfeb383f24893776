"""Qwen3-VL: Qwen3's decoder with positions on interleaved axes; the first layers see more of the vision tower."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from convert.architectures import _qwen_vision as qwen
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._mmproj import MAX_IMAGE, VisionTower, image_config, pixel_limits, vision_fields
from convert.architectures._rope import Rotary
from convert.architectures._rows import biases
from convert.architectures.qwen3 import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen3vl", rotary=Rotary(theta=500000.0))

_V, _B, _D = "visual.blocks.{i}", "v.blk.{i}", "visual.deepstack_merger_list"
WEIGHTS: tuple[TensorRule, ...] = (
    (f"{_V}.attn.qkv.weight", f"{_B}.attn_qkv.weight", ("width+width+width", "width")),
    *qwen.NORMS,
    (f"{_V}.mlp.linear_fc1.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.linear_fc2.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    ("visual.merger.norm.weight", "v.post_ln.weight", ("width",)),
    ("visual.merger.linear_fc1.weight", "mm.0.weight", ("merged", "merged")),
    ("visual.merger.linear_fc2.weight", "mm.2.weight", ("text", "merged")),
)
TOWER: tuple[TensorRule, ...] = (
    *WEIGHTS,
    *biases(WEIGHTS),
    *qwen.ATTENTION_OUT,
    ("visual.patch_embed.proj.bias", "v.patch_embd.bias", ("width",)),
    ("visual.pos_embed.weight", "v.position_embd.weight", ("positions", "width")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(qwen.text_config(values).with_defaults(head_dim=128), GRAPH)
    return decoder_spec(decoder, ROWS, text_fields(values, decoder))


def text_fields(values: JsonObject, decoder: Decoder) -> list[Field]:
    """What Qwen3's decoder has more of here; what llama.cpp cannot do is a problem of the decoder's config."""
    decoder.config.require("attention_bias", False, "llama.cpp's graph has no output bias")
    qwen.check_sections(decoder)
    assert decoder.rope is not None
    decoder.rope.values.require("mrope_interleaved", True, "llama.cpp's graph has no other order of frequencies")
    config = Config(values, problems=decoder.config.problems).sub("vision_config")
    deep = len(_deep(config))
    if deep > decoder.layers:
        got = list(_deep(config))
        config.complain("deepstack_visual_indexes", got, f"at most {decoder.layers}, the text model's layers")
    return [*head_size_fields(decoder), Field.uint32(f"{decoder.graph.name}.n_deepstack_layers", deep)]


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the mergers, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config = root.sub("vision_config")
    tower = VisionTower(
        projector="qwen3vl_merger",
        layers=config.size("depth", 27, MAX_LAYERS),
        width=config.size("hidden_size", 1152),
        ffn=config.size("intermediate_size", 4304),
        heads=config.size("num_heads", 16),
        patch=config.size("patch_size", 16, 1024),
        image_size=_side(config) * config.size("patch_size", 16, 1024),
        text_width=root.merged("text_config").size("hidden_size"),
        epsilon=qwen.EPSILON,
        activation=config.word(
            "hidden_act", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",), "llama.cpp's other is QuickGELU"
        ),
    )
    config.require("out_hidden_size", tower.text_width, "the text model's hidden_size")
    qwen.check_tower(config, tower)
    images = image_config(preprocessor, config.problems)
    limits, notes = pixel_limits(images, (tower.patch * 2) ** 2)
    deep = _deep(config)
    fields = [
        *vision_fields(tower, images),
        Field.uint32("clip.vision.spatial_merge_size", 2),
        Field.booleans("clip.vision.is_deepstack_layers", [layer in deep for layer in range(tower.layers)]),
        *limits,
    ]
    root.finish()
    sizes = {"width": tower.width, "ffn": tower.ffn, "merged": tower.width * 4, "text": tower.text_width}
    sizes["positions"] = _side(config) ** 2
    rows = [*TOWER, *_deep_rows(deep)]
    tensors = (qwen.patch_embedding(tower.width, tower.patch), *expand(rows, sizes, layers=tower.layers))
    return GraphSpec("clip", tuple(fields), tensors, left_out=(qwen.FREQUENCIES,), notes=tuple(notes))


def _side(config: Config) -> int:
    """Positions along one side of the square of position embeddings, which is stretched over every image."""
    number = config.size("num_position_embeddings", 2304)
    side = math.isqrt(number)
    patch = config.size("patch_size", 16, 1024)
    if side**2 != number or side * patch > MAX_IMAGE:
        config.complain("num_position_embeddings", number, f"a square number, of patches within {MAX_IMAGE} pixels")
    return side


def _deep(config: Config) -> Sequence[int]:
    """The vision layers whose values go into the first text layers."""
    depth = config.size("depth", 27, MAX_LAYERS)
    layers = config.sizes("deepstack_visual_indexes", (8, 16, 24))
    if len(set(layers)) < len(layers) or any(layer >= depth for layer in layers):
        config.complain("deepstack_visual_indexes", list(layers), f"different numbers below depth, {depth}")
    return layers


def _deep_rows(layers: Sequence[int]) -> Iterator[TensorRule]:
    """The mergers of those layers: numbered in the checkpoint, called by the layer in the file."""
    for number, layer in enumerate(layers):
        names, target = f"{_D}.{number}", f"v.deepstack.{layer}"
        weights: tuple[TensorRule, ...] = (
            (f"{names}.norm.weight", f"{target}.norm.weight", ("merged",)),
            (f"{names}.linear_fc1.weight", f"{target}.fc1.weight", ("merged", "merged")),
            (f"{names}.linear_fc2.weight", f"{target}.fc2.weight", ("text", "merged")),
        )
        yield from (*weights, *biases(weights))


FAMILY = Family(
    name="qwen3_vl",
    title="Qwen3-VL",
    classes=("Qwen3VLForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
