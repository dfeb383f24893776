"""Maincoder: norms of queries and keys after RoPE, neighbours turning together already."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QK_NORM
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("maincoder", default_epsilon=1e-5, rotary=Rotary(("linear", "yarn")))
ROWS: tuple[TensorRule, ...] = (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's maincoder graph has none behind attention")
    config.require("use_qk_norm", True, "llama.cpp's maincoder graph has no other")
    fields = [Field.uint32("maincoder.rope.dimension_count", decoder.head_dim), *head_size_fields(decoder)]
    return decoder_spec(decoder, ROWS, fields)


FAMILY = Family(
    name="maincoder",
    title="Maincoder",
    classes=("MaincoderForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
