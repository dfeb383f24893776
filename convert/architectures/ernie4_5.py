"""ERNIE 4.5 (dense): Llama's layers with neighbours turning together already, heads of their own size."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.json_types import JsonObject

GRAPH = Graph("ernie4_5", default_epsilon=1e-5, rotary=Rotary(theta=500000.0), tied=True)
ROWS = (*ENDS, *NORMS, *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128)
    decoder = read_decoder(config, GRAPH)
    config.require("use_bias", False, "llama.cpp's ernie4_5 graph has no biases in its MLP")
    return decoder_spec(decoder, ROWS, head_size_fields(decoder))


FAMILY = Family(
    name="ernie4_5",
    title="ERNIE 4.5 (dense)",
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    text=text,
)
