"""Jais 2: LayerNorm, biases everywhere, a squared ReLU without a gate."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "jais2",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    activations=("relu2",),
    rotary=Rotary(("linear", "yarn")),
    square=True,
)
UP_DOWN = MLP[1:]
ROWS = (*ENDS, *NORMS, *ATTENTION, *UP_DOWN, *biases(NORMS, ENDS[1:], ATTENTION, UP_DOWN))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, True, "llama.cpp's jais2 graph has biases everywhere")
    fields = [*head_size_fields(decoder), Field.uint32("jais2.rope.dimension_count", decoder.head_dim)]
    return decoder_spec(decoder, ROWS, fields)


FAMILY = Family(
    name="jais2",
    title="Jais 2",
    classes=("Jais2ForCausalLM",),
    text=text,
)
