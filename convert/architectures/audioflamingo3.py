"""Audio Flamingo 3: Qwen2's text, Whisper's encoder, two layers between them."""

from __future__ import annotations

from convert.architectures import _whisper as whisper
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._nested import nested_text, text_values
from convert.architectures._rows import biases
from convert.json_types import JsonObject

TEXT = "qwen2"
PROJECTOR: tuple[TensorRule, ...] = (
    ("multi_modal_projector.linear_1.weight", "mm.a.mlp.1.weight", ("text", "width")),
    ("multi_modal_projector.linear_2.weight", "mm.a.mlp.2.weight", ("text", "text")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def projector(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The encoder and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    encoder = whisper.read_encoder(root.sub("audio_config"), "musicflamingo", text_width)
    root.word("projector_hidden_act", "gelu", ("gelu",), "llama.cpp's graph of this projector has no other")
    whisper.check_features(root, preprocessor)
    rows = [*PROJECTOR, *(biases(PROJECTOR) if root.flag("projector_bias", True) else ())]
    return whisper.whisper_spec(root, encoder, rows, kernels="F32")  # trained in bfloat16, which float16 may not hold


FAMILY = Family(
    name="audioflamingo3",
    title="Audio Flamingo 3",
    classes=("AudioFlamingo3ForConditionalGeneration",),
    text=text,
    vision=projector,
    vision_prefix=whisper.PREFIX,
    takes=("sounds",),
    renames=whisper.RENAMES,
    graphs="",
)
