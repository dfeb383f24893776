"""Qwen2-Audio: Qwen2's text, Whisper's encoder, one layer between them."""

from __future__ import annotations

from convert.architectures import _whisper as whisper
from convert.architectures._config import Config
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._nested import nested_text, text_values
from convert.json_types import JsonObject

TEXT = "qwen2"
PROJECTOR: tuple[TensorRule, ...] = (
    ("multi_modal_projector.linear.weight", "mm.a.fc.weight", ("text", "width")),
    ("multi_modal_projector.linear.bias", "mm.a.fc.bias", ("text",)),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return nested_text(values, TEXT)


def projector(values: JsonObject, preprocessor: JsonObject) -> GraphSpec:
    """The encoder and the projector, for the mmproj file. Raises PlanError with every problem of both configs."""
    root = Config(values)
    text_width = Config(text_values(values, TEXT), problems=root.problems).size("hidden_size")
    encoder = whisper.read_encoder(root.sub("audio_config"), "qwen2a", text_width)
    whisper.check_features(root, preprocessor)
    return whisper.whisper_spec(root, encoder, PROJECTOR)


FAMILY = Family(
    name="qwen2_audio",
    title="Qwen2-Audio",
    classes=("Qwen2AudioForConditionalGeneration",),
    text=text,
    vision=projector,
    vision_prefix=whisper.PREFIX,
    takes=("sounds",),
    renames=whisper.RENAMES,
    graphs="",
)
