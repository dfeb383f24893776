"""Orion: Llama's layers with LayerNorm."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, biases
from convert.architectures.xverse import LAYOUT
from convert.gguf_field import Field
from convert.json_types import JsonObject

# the config calls it RMS, the model's code computes LayerNorm
GRAPH = Graph("orion", layer_norm=True, default_epsilon=1e-5, rotary=Rotary(("linear",)), square=True)
ROWS: tuple[TensorRule, ...] = (*ENDS, *NORMS, *biases(NORMS, ENDS[1:]), *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if config.has("max_sequence_length"):
        config = config.spelled(max_position_embeddings="max_sequence_length")
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's orion graph wants a head of its own")
    return decoder_spec(decoder, ROWS, [Field.string("orion.tensor_data_layout", LAYOUT)])


FAMILY = Family(
    name="orion",
    title="Orion",
    classes=("OrionForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
