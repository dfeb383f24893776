"""Command-R7B, Command-A: windows with positions, and every fourth layer without either."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._window import require_every
from convert.architectures.cohere import ROWS, cohere_fields
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "cohere2",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    rotary=Rotary(()),
    square=True,
    windowed=True,
    tied=True,
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(sliding_window=4096)
    decoder = read_decoder(config, GRAPH)
    config.require("rotary_pct", 1.0, "transformers rotates whole heads whatever it says")
    fields = [
        *cohere_fields(decoder),
        *head_size_fields(decoder),
        Field.uint32("cohere2.attention.sliding_window", require_every(config, decoder.layers, 4)),
        Field.uint32("cohere2.vocab_size", decoder.vocab),
        Field.uint32("cohere2.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, ROWS, fields)


FAMILY = Family(
    name="cohere2",
    title="Command-R7B, Command-A",
    classes=("Cohere2ForCausalLM",),
    text=text,
    tested=("onnx",),
)
