"""Granite: Llama's layers with four multipliers."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures.granitemoe import MULTIPLIERS
from convert.architectures.llama import layer_rows, side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("granite", default_epsilon=1e-6, square=True)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    rows = layer_rows(config)
    fields = [
        Field.uint32("granite.vocab_size", decoder.vocab),
        Field.uint32("granite.rope.dimension_count", decoder.head_dim),
        *(Field.float32(f"granite.{name}", config.number(key, 1.0)) for key, name in MULTIPLIERS.items()),
    ]
    return decoder_spec(decoder, rows, fields, side_by_side(decoder))


FAMILY = Family(
    name="granite",
    title="Granite",
    classes=("GraniteForCausalLM",),
    text=text,
)
