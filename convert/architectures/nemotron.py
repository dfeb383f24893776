"""Nemotron 3 and 4, Minitron: LayerNorm times 1 + weight, a squared ReLU without a gate, half of each head turns."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "nemotron",
    layer_norm=True,
    epsilon="norm_eps",
    default_epsilon=1e-5,
    activations=("relu2",),
    rotary=Rotary((), partial=0.5),
    square=True,
)
UP_DOWN = MLP[1:]
NORM_BIASES = tuple(row[:3] for row in biases(NORMS, ENDS[1:]))  # to which nothing is added


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's nemotron graph wants a head of its own")
    rows: list[TensorRule] = [*ENDS, *NORMS, *NORM_BIASES, *ATTENTION, *UP_DOWN]
    if config.flag("attention_bias"):
        rows += biases(ATTENTION)
    if config.flag("mlp_bias"):
        rows += biases(UP_DOWN)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("nemotron.vocab_size", decoder.vocab),
        Field.string("nemotron.rope.scaling.type", "none"),
    ]
    return decoder_spec(decoder, rows, fields, {"norm": PLUS_ONE})


FAMILY = Family(
    name="nemotron",
    title="Nemotron 3 and 4, Minitron",
    classes=("NemotronForCausalLM",),
    text=text,
)
