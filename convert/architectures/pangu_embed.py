"""openPangu Embedded: Llama's layers with biases around attention."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("pangu-embedded", default_epsilon=1e-5, rotary=Rotary(("linear", "yarn")))
ROWS: tuple[TensorRule, ...] = (*ENDS, *NORMS, *ATTENTION, *biases(ATTENTION), *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("bias", True, "llama.cpp's pangu-embedded graph wants them")
    fields = [
        *head_size_fields(decoder),
        Field.uint32("pangu-embedded.vocab_size", decoder.vocab),
        Field.uint32("pangu-embedded.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, ROWS, fields)


FAMILY = Family(
    name="pangu_embed",
    title="openPangu Embedded",
    classes=("PanguEmbeddedForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
