"""Qwen2.5-VL: Qwen2's decoder with positions in time, height and width, and a vision tower with window attention."""

from __future__ import annotations

from convert.architectures import _qwen_vision as qwen
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Graph
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._mmproj import VisionTower, image_config, pixel_limits, vision_fields
from convert.architectures._rope import Rotary
from convert.architectures.qwen2 import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen2vl", rotary=Rotary(theta=1000000.0), square=True)

_V, _B = "visual.blocks.{i}", "v.blk.{i}"
TOWER: tuple[TensorRule, ...] = (
    *qwen.QKV,
    *qwen.NORMS,
    *qwen.ATTENTION_OUT,
    (f"{_V}.mlp.gate_proj.weight", f"{_B}.ffn_gate.weight", ("ffn", "width")),
    (f"{_V}.mlp.gate_proj.bias", f"{_B}.ffn_gate.bias", ("ffn",)),
    (f"{_V}.mlp.up_proj.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.up_proj.bias", f"{_B}.ffn_up.bias", ("ffn",)),
    (f"{_V}.mlp.down_proj.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    (f"{_V}.mlp.down_proj.bias", f"{_B}.ffn_down.bias", ("width",)),
    ("visual.merger.ln_q.weight", "v.post_ln.weight", ("width",)),
    *qwen.MERGER,
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return qwen.text_spec(values, GRAPH, ROWS)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the merger, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config = root.sub("vision_config")
    tower = VisionTower(
        projector="qwen2.5vl_merger",
        layers=config.size("depth", most=MAX_LAYERS),
        width=config.size("hidden_size"),
        ffn=config.size("intermediate_size"),
        heads=config.size("num_heads"),
        patch=config.size("patch_size", most=1024),
        image_size=config.size("image_size", 560),  # only llama.cpp's warm-up looks at it: images keep their shape
        text_width=root.merged("text_config").size("hidden_size"),
        epsilon=qwen.EPSILON,
        activation=config.word("hidden_act", "silu", ("silu", "gelu", "quick_gelu")),
    )
    config.require("out_hidden_size", tower.text_width, "the text model's hidden_size")
    qwen.check_tower(config, tower)
    config.require("window_size", 112, "what llama.cpp's graph is built for")
    images = image_config(preprocessor, config.problems)
    limits, notes = pixel_limits(images, (tower.patch * 2) ** 2)
    fields = [
        *vision_fields(tower, images),
        Field.uint32("clip.vision.n_wa_pattern", _full_attention_every(config)),
        Field.uint32("clip.vision.spatial_merge_size", 2),
        Field.uint32("clip.vision.window_size", config.size("window_size", 112)),
        *limits,
    ]
    root.finish()
    sizes = {"width": tower.width, "ffn": tower.ffn, "merged": tower.width * 4, "text": tower.text_width}
    tensors = (qwen.patch_embedding(tower.width, tower.patch), *expand(TOWER, sizes, layers=tower.layers))
    return GraphSpec("clip", tuple(fields), tensors, left_out=(qwen.FREQUENCIES,), notes=tuple(notes))


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


FAMILY = Family(
    name="qwen2_5_vl",
    title="Qwen2.5-VL",
    classes=("Qwen2_5_VLForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="qwen2_5_vl",
    tested=("gptq", "awq", "onnx"),
)
