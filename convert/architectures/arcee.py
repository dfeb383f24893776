"""Arcee (AFM): Llama's layers with a squared ReLU and no gate in the MLP."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("arcee", default_epsilon=1e-5, activations=("relu2",), rotary=Rotary(("linear", "yarn", "llama3")))
ROWS = (*ENDS, *NORMS, *ATTENTION, *MLP[1:])


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's arcee graph has no biases")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("arcee.vocab_size", decoder.vocab),
        Field.uint32("arcee.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, ROWS, fields, side_by_side(decoder))


FAMILY = Family(
    name="arcee",
    title="Arcee (AFM)",
    classes=("ArceeForCausalLM",),
    text=text,
)
