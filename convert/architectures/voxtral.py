"""Voxtral: Llama's text, Whisper's encoder, four moments side by side projected by two layers."""

from __future__ import annotations

from convert.architectures import _whisper as whisper
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._nested import nested_text, text_values
from convert.gguf_field import Field
from convert.json_types import JsonObject

TEXT = "llama"
STACK = 4  # upstream's converter states no other, and the class takes the encoder's ffn for the width of four moments
PROJECTOR: tuple[TensorRule, ...] = (
    ("multi_modal_projector.linear_1.weight", "mm.a.mlp.1.weight", ("text", "stacked")),
    ("multi_modal_projector.linear_2.weight", "mm.a.mlp.2.weight", ("text", "text")),
)
DEFAULTS = {  # transformers' own, of a Voxtral's text
    "vocab_size": 131072,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 30,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e8,
    "head_dim": 128,
}
ABORTS_NOTE = (
    "llama.cpp b11549 stops at every sound that a Voxtral is given: it takes the mean of every two moments, which the "
    "source does not, makes 188 tokens of thirty seconds and counts 187; use the text, or a build that mends it"
)


def _whole(values: JsonObject) -> JsonObject:
    """The config with the words that transformers adds to its text_config."""
    inner = Config(values).sub("text_config").with_defaults(**DEFAULTS).values
    return {**values, "text_config": inner}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(_whole(values), TEXT)


def projector(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The encoder and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(_whole(values), TEXT), problems=root.problems).size("hidden_size")
    config = root.sub("audio_config")
    encoder = whisper.read_encoder(config, "voxtral", text_width)
    if encoder.ffn != encoder.width * STACK:
        config.complain("intermediate_size", encoder.ffn, f"{STACK} times the encoder's width, {encoder.width}")
    root.word("projector_hidden_act", "gelu", ("gelu",), "llama.cpp's graph of this projector has no other")
    whisper.check_features(root, preprocessor)
    made = whisper.whisper_spec(root, encoder, PROJECTOR, [Field.uint32("clip.audio.projector.stack_factor", STACK)])
    return GraphSpec(made.architecture, made.fields, made.tensors, notes=(ABORTS_NOTE,))


FAMILY = Family(
    name="voxtral",
    title="Voxtral",
    classes=("VoxtralForConditionalGeneration",),
    text=text,
    vision=projector,
    vision_prefix=whisper.PREFIX,
    takes=("sounds",),
    renames=whisper.RENAMES,
    graphs="",
)
