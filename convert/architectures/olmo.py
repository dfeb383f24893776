"""OLMo 1: norms without weights."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, MLP
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("olmo", layer_norm=True, epsilon="layer_norm_eps", default_epsilon=1e-5, square=True)
ROWS = (ENDS[0], *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's olmo graph has no biases")
    config.require("layer_norm_eps", 1e-5, "transformers' norms have no other")
    fields = []
    if config.has("clip_qkv"):
        fields.append(Field.float32("olmo.attention.clamp_kqv", config.number("clip_qkv")))
    return decoder_spec(decoder, ROWS, fields, side_by_side(decoder))


FAMILY = Family(
    name="olmo",
    title="OLMo 1",
    classes=("OlmoForCausalLM",),
    text=text,
)
