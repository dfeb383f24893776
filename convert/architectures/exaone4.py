"""EXAONE 4: norms behind attention and MLP and on queries and keys; in the 32B windows, and positions only in them."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM
from convert.architectures._window import sliding_layers
from convert.architectures.olmo2 import NORMS as OLMO_NORMS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("exaone4", default_epsilon=1e-5, rotary=Rotary(("linear", "llama3")), square=True, windowed=True)
NORMS_BEHIND = OLMO_NORMS[2:]
LAYERS_OF_32B = 64  # only then llama.cpp has windows (models/exaone4.cpp)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's exaone4 graph has no biases")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("exaone4.vocab_size", decoder.vocab),
        *_window_fields(decoder),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS_BEHIND, *QK_NORM, *ATTENTION, *MLP), fields)


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    config, windowed = decoder.config, decoder.config.has("sliding_window")
    if windowed != (decoder.layers == LAYERS_OF_32B):
        why = f"llama.cpp's exaone4 graph has windows in models of {LAYERS_OF_32B} layers, and no others"
        wanted = "a window" if decoder.layers == LAYERS_OF_32B else "none"
        config.complain("sliding_window", config.values.get("sliding_window"), wanted, why)
    if config.has("layer_types"):  # the pattern may be spelled "LLLG" beside it
        config = Config({**config.values, "sliding_window_pattern": None}, config.where, config.problems)
    if windowed:
        yield Field.uint32("exaone4.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT))
        yield Field.booleans("exaone4.attention.sliding_window_pattern", sliding_layers(config, decoder.layers, 4))


FAMILY = Family(
    name="exaone4",
    title="EXAONE 4",
    classes=("Exaone4ForCausalLM",),
    text=text,
)
