"""InternVL 2.5 and 3 as OpenGVLab publishes them: what transformers has of InternVL 3, under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from convert.architectures import _vit as vit
from convert.architectures import internvl
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._nested import nested_text
from convert.architectures._rows import biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

RENAMES = (
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_model.", "vision."),
)
_V, _B = "vision.encoder.layers.{i}", vit.B
_PARTS = tuple(f"{_B}.attn_{which}" for which in "qkv")
QKV: tuple[TensorRule, ...] = (
    (f"{_V}.attn.qkv.weight", tuple(f"{name}.weight" for name in _PARTS), ("width+width+width", "width")),
)
PLAIN: tuple[TensorRule, ...] = (
    (f"{_V}.attn.proj.weight", f"{_B}.attn_out.weight", ("width", "width")),
    (f"{_V}.mlp.fc1.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.fc2.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
    ("vision.embeddings.patch_embedding.weight", "v.patch_embd.weight", ("width", "colours", "patch", "patch")),
    ("mlp1.0.weight", "mm.model.mlp.0.weight", ("merged",)),
    ("mlp1.1.weight", "mm.model.mlp.1.weight", ("text", "merged")),
    ("mlp1.3.weight", "mm.model.mlp.3.weight", ("text", "text")),
)
NORMS: tuple[TensorRule, ...] = (
    (f"{_V}.norm1.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_V}.norm2.weight", f"{_B}.ln2.weight", ("width",)),
)
QK_NORM: tuple[TensorRule, ...] = (
    (f"{_V}.attn.q_norm.weight", f"{_B}.attn_q_norm.weight", ("width",)),
    (f"{_V}.attn.k_norm.weight", f"{_B}.attn_k_norm.weight", ("width",)),
)
OTHERS: tuple[TensorRule, ...] = (
    (f"{_V}.ls1", f"{_B}.ls1.weight", ("width",)),
    (f"{_V}.ls2", f"{_B}.ls2.weight", ("width",)),
    ("vision.embeddings.class_embedding", "v.class_embd", ("one", "one", "width")),
    ("vision.embeddings.position_embedding", "v.position_embd.weight", ("one", "positions", "width")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(_usual(values), internvl.TEXT)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    made = internvl.vision(_usual(values), preprocessor)
    root = Config(values)
    root.require("select_layer", -1, "llama.cpp's internvl graph takes what comes out of the last layer")
    root.require("ps_version", "v2", "llama.cpp's internvl graph has no other order of patches")
    config = root.sub("vision_config").with_defaults(**internvl.DEFAULTS)
    rows = [*QKV, *PLAIN, *biases(PLAIN), *NORMS, *OTHERS]
    rows += [*QK_NORM] if config.flag("qk_normalization") else []
    rows += [*biases(QKV)] if config.flag("qkv_bias", True) else []
    rows += [*biases(NORMS)] if config.values.get("norm_type", "layer_norm") == "layer_norm" else []
    sizes = _sizes(made)
    tiles = [
        Field.uint32(f"clip.vision.preproc_{which}_tiles", root.size(f"{which}_dynamic_patch", most=1024))
        for which in ("min", "max")
        if root.has(f"{which}_dynamic_patch")
    ]
    fields = [f for f in made.fields if not f.key.endswith("_tiles")]
    root.finish()
    layers = next(int(f.value) for f in fields if f.key == "clip.vision.block_count" and isinstance(f.value, int))
    return replace(made, fields=(*fields, *tiles), tensors=expand(rows, sizes, layers=layers))


def _usual(values: JsonObject) -> JsonObject:
    """The config in transformers' words."""
    tower = values.get("vision_config")
    seen: object = tower
    if isinstance(tower, Mapping):
        words = {"attention_bias": tower.get("qkv_bias", True), "use_qk_norm": tower.get("qk_normalization", False)}
        seen = {**tower, **words}
    return {**values, "text_config": values.get("llm_config"), "vision_config": seen}


def _sizes(made: GraphSpec) -> dict[str, int]:
    """The dimensions that the rows name, by the tensors of the other layout."""
    shapes = {output.name: output.shape for tensor in made.tensors for output in tensor.outputs}
    _, colours, patch, _ = shapes["v.patch_embd.weight"]
    text_width, merged = shapes["mm.model.mlp.1.weight"]
    one, positions, width = shapes["v.position_embd.weight"]
    ffn = shapes["v.blk.0.ffn_up.weight"][0]
    found = {"width": width, "ffn": ffn, "colours": colours, "patch": patch, "text": text_width}
    return {**found, "merged": merged, "one": one, "positions": positions}


FAMILY = Family(
    name="internvl_chat",
    title="InternVL 2.5 and 3, as OpenGVLab publishes them",
    classes=("InternVLChatModel",),
    text=text,
    vision=vision,
    vision_prefix=("vision.", "mlp1."),
    renames=RENAMES,
    graphs="",
)
