"""Gemma 4 with vision: a tower over images of any shape, squares of patches averaged into a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from convert.architectures import gemma4
from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule, expand
from convert.architectures._mmproj import VISION_PROJECTOR_TYPE, VisionTower, image_config, vision_fields
from convert.architectures._nested import inner_config
from convert.architectures.gemma3n import NESTED
from convert.gguf_field import Field
from convert.json_types import JsonObject

SIDE = 16  # pixels of a patch
POOLING = 3  # patches a side that become a token, where the file says nothing (clip.cpp, load_hparams)
IMAGE_SIZE = 224  # no word of the config, and nothing looks at it
FEWEST, MOST = 70, 1120  # tokens of an image in llama.cpp
THETA = 100.0
CAUSAL_WIDTHS = (1536, 2560)  # E2B's and E4B's: mtmd.cpp, mtmd_decode_use_non_causal
DEFAULTS = {  # transformers' own
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 16,
    "num_attention_heads": 12,
    "position_embedding_size": 10240,
    "rms_norm_eps": 1e-6,
}
_T, _B = "model.vision_tower.encoder.layers.{i}", "v.blk.{i}"
LINEARS: Mapping[str, tuple[str, tuple[str, str]]] = {  # in a checkpoint -> in the file, and its shape
    "self_attn.q_proj": ("attn_q", ("width", "width")),
    "self_attn.k_proj": ("attn_k", ("width", "width")),
    "self_attn.v_proj": ("attn_v", ("width", "width")),
    "self_attn.o_proj": ("attn_out", ("width", "width")),
    "mlp.gate_proj": ("ffn_gate", ("ffn", "width")),
    "mlp.up_proj": ("ffn_up", ("ffn", "width")),
    "mlp.down_proj": ("ffn_down", ("width", "ffn")),
}
BOUNDS = ("input_min", "input_max", "output_min", "output_max")
ROWS: tuple[TensorRule, ...] = (
    *((f"{_T}.{name}.linear.weight", f"{_B}.{to}.weight", shape) for name, (to, shape) in LINEARS.items()),
    (f"{_T}.input_layernorm.weight", f"{_B}.ln1.weight", ("width",)),
    (f"{_T}.post_attention_layernorm.weight", f"{_B}.attn_post_norm.weight", ("width",)),
    (f"{_T}.pre_feedforward_layernorm.weight", f"{_B}.ln2.weight", ("width",)),
    (f"{_T}.post_feedforward_layernorm.weight", f"{_B}.ffn_post_norm.weight", ("width",)),
    (f"{_T}.self_attn.q_norm.weight", f"{_B}.attn_q_norm.weight", ("head",)),
    (f"{_T}.self_attn.k_norm.weight", f"{_B}.attn_k_norm.weight", ("head",)),
    (
        "model.vision_tower.patch_embedder.position_embedding_table",
        "v.position_embd.weight",
        ("two", "positions", "width"),
    ),
    ("model.embed_vision.embedding_projection.weight", "mm.input_projection.weight", ("text", "width")),
)
STANDARD: tuple[TensorRule, ...] = (
    ("model.vision_tower.std_bias", "v.std_bias", ("width",)),
    ("model.vision_tower.std_scale", "v.std_scale", ("width",)),
)


def vision(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The vision tower and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    config = root.sub("vision_config").with_defaults(**DEFAULTS)
    text = inner_config(values)
    tower = _tower(config, Config(text.values, problems=root.problems).size("hidden_size", 2304))
    if root.has("audio_config"):
        root.complain("audio_config", "given", "none", "no table here describes Gemma 4's sound encoder yet")
    images = _images(preprocessor, root)
    pooling = config.size("pooling_kernel_size", POOLING, 64)
    fields = vision_fields(tower, images, VISION_PROJECTOR_TYPE)
    if pooling != POOLING:
        fields.append(Field.uint32("clip.vision.projector.scale_factor", pooling))
    notes = (*_notes(images), *_mask_notes(Config(text.values), tower.text_width))
    root.finish()
    sizes = {
        "width": tower.width,
        "ffn": tower.ffn,
        "head": tower.width // tower.heads,
        "two": 2,
        "positions": config.size("position_embedding_size"),
        "text": tower.text_width,
    }
    rows = (*ROWS, *(STANDARD if config.flag("standardize") else ()))
    bounds = _bounds(tower.layers) if config.flag("use_clipped_linears") else ()
    tensors = (_patches(tower.width, tower.patch), *expand(rows, sizes, layers=tower.layers), *bounds)
    return GraphSpec("clip", tuple(fields), tensors, notes=notes)


def _tower(config: Config, text_width: int) -> VisionTower:
    """The tower a vision config describes."""
    width, heads = config.size("hidden_size"), config.size("num_attention_heads")
    if width % heads or width // heads % 4:
        wanted = f"a divisor of hidden_size, {width}, with heads of 4, 8, 12, ..."
        config.complain("num_attention_heads", heads, wanted)
    why = "llama.cpp's gemma4v graph has no other"
    config.require("head_dim", width // heads, why)
    config.require("num_key_value_heads", heads, why)
    config.require("attention_bias", False, why)
    for values in (config, config.sub("rope_parameters")):
        values.require("rope_theta", THETA, why)
    return VisionTower(
        "gemma4v",
        layers=config.size("num_hidden_layers", most=MAX_LAYERS),
        width=width,
        ffn=config.size("intermediate_size"),
        heads=heads,
        patch=config.size("patch_size", SIDE, 1024),
        image_size=IMAGE_SIZE,
        text_width=text_width,
        epsilon=config.number("rms_norm_eps"),
        activation=config.word("hidden_activation", "gelu_pytorch_tanh", ("gelu_pytorch_tanh",), why),
    )


def _images(preprocessor: JsonObject, root: Config) -> Config:
    """The image processor's settings; it normalizes nothing, which is a mean of 0 and a deviation of 1."""
    inner = preprocessor.get("image_processor")
    given = {**preprocessor, **(inner if isinstance(inner, Mapping) else {})}
    plain = {key: value for key, value in given.items() if key not in ("do_normalize", "image_processor")}
    images = image_config({"image_mean": [0.0] * 3, "image_std": [1.0] * 3, **plain}, root.problems)
    if given.get("do_normalize") is False:
        images.require("image_mean", [0.0] * 3, "the processor does not normalize, and llama.cpp does")
        images.require("image_std", [1.0] * 3, "the processor does not normalize, and llama.cpp does")
    return images


def _notes(images: Config) -> tuple[str, ...]:
    tokens = images.size("max_soft_tokens", 280, 1 << 20)
    return (
        f"the source scales every image to about {tokens} tokens, llama.cpp leaves it between {FEWEST} and {MOST}: run "
        f"it with --image-min-tokens {tokens} --image-max-tokens {tokens} to match the source",
    )


def _mask_notes(text: Config, width: int) -> tuple[str, ...]:
    """That llama.cpp goes by the text's width whether an image's tokens see each other, where it goes wrong."""
    seeing = text.values.get("use_bidirectional_attention") == "vision"
    if seeing == (width not in CAUSAL_WIDTHS):
        return ()
    return (
        f"llama.cpp {'hides' if seeing else 'shows'} an image's tokens {'from' if seeing else 'to'} each other, by the "
        "text's width alone: what it says of images differs from the source",
    )


def _patches(width: int, side: int) -> SourceTensor:
    """What is a matrix over the values of a patch becomes a convolution: colours come last in the one, first here."""

    def view(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(width, side, side, 3).transpose(0, 3, 1, 2)

    output = OutputTensor("v.patch_embd.weight", (width, 3, side, side), view)
    return SourceTensor("model.vision_tower.patch_embedder.input_proj.weight", (width, side * side * 3), (output,))


def _bounds(layers: int) -> Iterator[SourceTensor]:
    """What goes into and comes out of a matrix is clipped to: single numbers, which a file holds as rows of one."""
    for i in range(layers):
        for name, (to, _) in LINEARS.items():
            for bound in BOUNDS:
                output = OutputTensor(f"{_B}.{to}.{bound}".replace("{i}", str(i)), (1,), lambda one: one.reshape(1))
                yield SourceTensor(f"{_T}.{name}.{bound}".replace("{i}", str(i)), (), (output,))


FAMILY = Family(
    name="gemma4_vision",
    title="Gemma 4 with vision",
    classes=("Gemma4ForConditionalGeneration",),
    text=gemma4.text,
    vision=vision,
    vision_prefix=("model.vision_tower.", "model.embed_vision."),
    renames=(NESTED,),
    graphs="",
)
