"""Qwen2-VL: Qwen2's decoder with positions in time, height and width, and a vision tower that sees entire images."""

from __future__ import annotations

from convert.architectures import _qwen_vision as qwen
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Graph
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._mmproj import VisionTower, image_config, pixel_limits, vision_fields
from convert.architectures._rope import Rotary
from convert.architectures._rows import biases
from convert.architectures.qwen2 import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen2vl", rotary=Rotary(theta=1000000.0), square=True)

_V, _B = "visual.blocks.{i}", "v.blk.{i}"
TOWER: tuple[TensorRule, ...] = (
    *qwen.QKV,
    *qwen.NORMS,
    *biases(qwen.NORMS),
    *qwen.ATTENTION_OUT,
    (f"{_V}.mlp.fc1.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.fc1.bias", f"{_B}.ffn_up.bias", ("ffn",)),
    (f"{_V}.mlp.fc2.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    (f"{_V}.mlp.fc2.bias", f"{_B}.ffn_down.bias", ("width",)),
    ("visual.merger.ln_q.weight", "v.post_ln.weight", ("width",)),
    ("visual.merger.ln_q.bias", "v.post_ln.bias", ("width",)),
    *qwen.MERGER,
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return qwen.text_spec(values, GRAPH, ROWS)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the merger, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config = root.sub("vision_config")
    width = config.size("embed_dim", 1280)
    tower = VisionTower(
        projector="qwen2vl_merger",
        layers=config.size("depth", 32, MAX_LAYERS),
        width=width,
        ffn=width * config.size("mlp_ratio", 4, 64),
        heads=config.size("num_heads", 16),
        patch=config.size("patch_size", 14, 1024),
        image_size=config.size("image_size", 560),  # only llama.cpp's warm-up looks at it: images keep their shape
        text_width=root.merged("text_config").size("hidden_size"),
        epsilon=qwen.EPSILON,
        activation=config.word("hidden_act", "quick_gelu", ("quick_gelu", "gelu", "silu")),
    )
    if config.size("hidden_size", 3584) != tower.text_width:
        got = config.size("hidden_size", 3584)
        config.complain("hidden_size", got, f"{tower.text_width}, the text model's hidden_size")
    qwen.check_tower(config, tower)
    images = image_config(preprocessor, config.problems)
    limits, notes = pixel_limits(images, (tower.patch * 2) ** 2)
    fields = [*vision_fields(tower, images), Field.uint32("clip.vision.spatial_merge_size", 2), *limits]
    root.finish()
    sizes = {"width": width, "ffn": tower.ffn, "merged": width * 4, "text": tower.text_width}
    tensors = (qwen.patch_embedding(width, tower.patch), *expand(TOWER, sizes, layers=tower.layers))
    return GraphSpec("clip", tuple(fields), tensors, left_out=(qwen.FREQUENCIES,), notes=tuple(notes))


FAMILY = Family(
    name="qwen2_vl",
    title="Qwen2-VL",
    classes=("Qwen2VLForConditionalGeneration",),
    text=text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="qwen2_vl",
    tested=("onnx",),
)
