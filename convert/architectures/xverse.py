"""XVERSE (dense): Llama's layers."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("xverse", default_epsilon=1e-6, rotary=Rotary(("linear",)), square=True)
LAYOUT = "Meta AI original pth"  # upstream's word for neighbours that turn together


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's xverse graph wants a head of its own")
    fields = [
        Field.string("xverse.tensor_data_layout", LAYOUT),
        Field.uint32("xverse.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields, side_by_side(decoder))


FAMILY = Family(
    name="xverse",
    title="XVERSE",
    classes=("XverseForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
