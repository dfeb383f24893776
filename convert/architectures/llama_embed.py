"""Llama whose tokens see those behind them too: NVIDIA's embedders, of their publisher's own code."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import head_size_fields, read_decoder
from convert.architectures._encoder import Encoding, encoder_spec
from convert.architectures._family import EMBEDDINGS, Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures.llama import GRAPH as LLAMA
from convert.architectures.llama import layer_rows, side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = replace(LLAMA, name="llama-embed")


def text(values: JsonObject) -> GraphSpec:
    """The encoder. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("llama-embed.vocab_size", decoder.vocab),
        Field.uint32("llama-embed.rope.dimension_count", decoder.head_dim),
    ]
    return encoder_spec(decoder, layer_rows(config), Encoding(fields, side_by_side(decoder)))


FAMILY = Family(
    name="llama_embed",
    title="Llama as an encoder (llama-embed-nemotron)",
    classes=("LlamaBidirectionalModel",),
    text=text,
    gives={"LlamaBidirectionalModel": EMBEDDINGS},
    graphs="",
)
