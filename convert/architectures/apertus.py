"""Apertus: norms on queries and keys, no gate; the activation, xIELU, has numbers of its own in every layer."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, StatedValues, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QK_NORM, biases, named
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "apertus",
    default_epsilon=1e-5,
    activations=("xielu",),
    rotary=Rotary(("linear", "yarn", "llama3"), theta=12e6),
    square=True,
)
RENAMED = (("input_layernorm", "attention_layernorm"), ("post_attention_layernorm", "feedforward_layernorm"))
ROWS: tuple[TensorRule, ...] = (*ENDS, *named(NORMS, *RENAMED), *ATTENTION, *QK_NORM, *MLP[1:])
LONG = {  # transformers' own where the config says nothing of positions
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
NUMBERS = ("alpha_n", "alpha_p", "beta", "eps")  # of xIELU, a tensor of one value each


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if not config.has("rope_scaling"):
        config = config.with_defaults(rope_parameters=LONG)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's apertus graph wants a head of its own")
    rows = (*ROWS, *biases(ATTENTION)) if config.flag("attention_bias") else ROWS
    fields = [
        Field.uint32("apertus.vocab_size", decoder.vocab),
        Field.uint32("apertus.rope.dimension_count", decoder.head_dim),
    ]
    layers = range(decoder.layers)
    stated = [
        StatedValues(f"xielu.{number}", tuple(f"model.layers.{i}.mlp.act_fn.{number}" for i in layers))
        for number in NUMBERS
    ]
    return decoder_spec(decoder, rows, fields, extra=Extra(stated=stated))


FAMILY = Family(
    name="apertus",
    title="Apertus",
    classes=("ApertusForCausalLM",),
    text=text,
    graphs="",  # xIELU's numbers have nothing to start with where a model is made without its weights
)
