"""GLM-4.1V and GLM-OCR: GLM-4's decoder with positions on three axes, a tower that takes images of any shape."""

from __future__ import annotations

import numpy as np

from convert.architectures import _qwen_vision as qwen
from convert.architectures import glm4
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, View, expand
from convert.architectures._mmproj import MAX_IMAGE, VisionTower, image_config, pixel_limits, vision_fields
from convert.architectures._rows import biases
from convert.architectures._vit import side
from convert.architectures.deepseek2 import drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject

OCR = "GlmOcrForConditionalGeneration"
OCR_TYPES = ("glm_ocr", "glm_ocr_text")
SECTIONS = (8, 12, 12)  # transformers' own
_V, _B, _M = "visual.blocks.{i}", "v.blk.{i}", "visual.merger"
ATTENTION: tuple[TensorRule, ...] = (
    (f"{_V}.attn.qkv.weight", f"{_B}.attn_qkv.weight", ("width+width+width", "width")),
    qwen.ATTENTION_OUT[0],
)
MLP: tuple[TensorRule, ...] = (
    (f"{_V}.mlp.gate_proj.weight", f"{_B}.ffn_gate.weight", ("ffn", "width")),
    (f"{_V}.mlp.up_proj.weight", f"{_B}.ffn_up.weight", ("ffn", "width")),
    (f"{_V}.mlp.down_proj.weight", f"{_B}.ffn_down.weight", ("width", "ffn")),
)
ENDS: tuple[TensorRule, ...] = (
    ("visual.patch_embed.proj.bias", "v.patch_embd.bias", ("width",)),
    ("visual.post_layernorm.weight", "v.post_ln.weight", ("width",)),
    ("visual.downsample.weight", "mm.patch_merger.weight", ("text", "width", "two", "two")),
    ("visual.downsample.bias", "mm.patch_merger.bias", ("text",)),
    (f"{_M}.proj.weight", "mm.model.fc.weight", ("text", "text")),
    (f"{_M}.post_projection_norm.weight", "mm.post_norm.weight", ("text",)),
    (f"{_M}.post_projection_norm.bias", "mm.post_norm.bias", ("text",)),
    (f"{_M}.gate_proj.weight", "mm.gate.weight", ("wide", "text")),
    (f"{_M}.up_proj.weight", "mm.up.weight", ("wide", "text")),
    (f"{_M}.down_proj.weight", "mm.down.weight", ("text", "wide")),
)
POSITIONS: tuple[TensorRule, ...] = (  # what GLM-OCR's tower has not
    ("visual.post_conv_layernorm.weight", "v.norm_embd.weight", ("width",)),
    ("visual.embeddings.position_embedding.weight", "v.position_embd.weight", ("positions", "width")),
)
QK_NORM: tuple[TensorRule, ...] = (  # what it has instead
    (f"{_V}.attn.q_norm.weight", f"{_B}.attn_q_norm.weight", ("head",)),
    (f"{_V}.attn.k_norm.weight", f"{_B}.attn_k_norm.weight", ("head",)),
)


def is_ocr(values: JsonObject) -> bool:
    """Whether a config is GLM-OCR's, whose biases and norms no word of it says."""
    classes = values.get("architectures")
    return values.get("model_type") in OCR_TYPES or (isinstance(classes, list) and OCR in classes)


def text_config(values: JsonObject) -> Config:
    """The language model's config, with the biases that its class has."""
    config = qwen.text_config(values)
    given = {**config.values, "attention_bias": not is_ocr(values)}
    return Config(given, config.where, config.problems).with_defaults(num_nextn_predict_layers=int(is_ocr(values)))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = with_sections(read_decoder(text_config(values), glm4.GRAPH))
    fields = head_size_fields(decoder) if decoder.config.has("head_dim") else []
    assert decoder.rope is not None
    turns = {
        word: Transform(halves(heads, decoder.head_dim, decoder.rope.dimensions))
        for word, heads in (("q", decoder.heads), ("k", decoder.kv_heads))
    }
    rows = (*glm4.rows(decoder), *glm4.BEHIND)
    return decoder_spec(decoder, rows, fields, turns, Extra(left_out=drafts(decoder)))


def with_sections(decoder: Decoder) -> Decoder:
    """The decoder, once its frequencies are seen to be dealt out to time, height and width; a problem if they are not.

    Without them llama.cpp's graph takes no images.
    """
    rope = decoder.rope
    assert rope is not None
    if not rope.sections or len(rope.sections) > 4 or sum(rope.sections) * 2 != rope.dimensions:
        wanted = f"up to four numbers that add up to {rope.dimensions // 2}, half of what turns of a head"
        rope.values.complain("mrope_section", list(rope.sections) or None, wanted)
    return decoder


def halves(heads: int, head: int, turning: int) -> View:
    """A view of q_proj or k_proj in which the values that rotate together are half of what turns apart.

    transformers rotates neighbours, llama.cpp on several axes only value j with j + turning / 2: the even ones of what
    turns come first, then the odd ones, and what does not turn stays.
    """

    def view(weight: np.ndarray) -> np.ndarray:
        apart = weight.reshape(heads, head, *weight.shape[1:])
        parts = (apart[:, 0:turning:2], apart[:, 1:turning:2], apart[:, turning:])
        found: np.ndarray = np.concatenate(parts, axis=1).reshape(weight.shape)
        return found

    return view


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the merger, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config, ocr = root.sub("vision_config"), is_ocr(values)
    tower = _tower(config, root.merged("text_config").size("hidden_size"), ocr)
    config.require("out_hidden_size", tower.text_width, "the text model's hidden_size")
    qwen.check_tower(config, tower)
    images = image_config(preprocessor, config.problems)
    both, notes = pixel_limits(images, 2 * (tower.patch * 2) ** 2)
    # transformers counts both of the two frames that a still image is
    limits = [Field.uint32(f.key, f.value // 2) for f in both if isinstance(f.value, int)]
    root.finish()
    rows = (*ATTENTION, *qwen.NORMS, *MLP, *ENDS, *(QK_NORM if ocr else POSITIONS))
    if config.flag("attention_bias", ocr):
        rows += tuple(biases(ATTENTION, MLP)) if ocr else tuple(biases(ATTENTION[:1]))
    sizes = {
        "width": tower.width,
        "head": tower.width // tower.heads,
        "text": tower.text_width,
        "ffn": tower.ffn if ocr else tower.text_width,
        "wide": tower.text_width * 3 if ocr else tower.ffn,
        "two": 2,
        "positions": (tower.image_size // tower.patch) ** 2,
    }
    tensors = (qwen.patch_embedding(tower.width, tower.patch), *expand(rows, sizes, layers=tower.layers))
    fields = [*vision_fields(tower, images), Field.uint32("clip.vision.spatial_merge_size", 2), *limits]
    return GraphSpec("clip", tuple(fields), tensors, left_out=(qwen.FREQUENCIES,), notes=tuple(notes))


def _tower(config: Config, text_width: int, ocr: bool) -> VisionTower:
    """The tower a vision config describes; its defaults are transformers' own."""
    width, heads, ffn = (1024, 16, 4096) if ocr else (1536, 12, 13696)
    return VisionTower(
        projector="glm4v",
        layers=config.size("depth", 24, MAX_LAYERS),
        width=config.size("hidden_size", width),
        ffn=config.size("intermediate_size", ffn),
        heads=config.size("num_heads", heads),
        patch=side(config.with_defaults(patch_size=14), "patch_size", 1024),
        image_size=side(config.with_defaults(image_size=336), "image_size", MAX_IMAGE),
        text_width=text_width,
        epsilon=config.number("rms_norm_eps", 1e-5),
        activation=config.word("hidden_act", "silu", ("silu", "gelu"), "llama.cpp's glm4v graph has no other"),
    )


FAMILY = Family(
    name="glm4v",
    title="GLM-4.1V, GLM-OCR",
    classes=("Glm4vForConditionalGeneration", OCR),
    text=text,
    vision=vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
