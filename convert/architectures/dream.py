"""Dream: Qwen2's layers, all of whose tokens see each other; masked tokens are filled in, by diffusion."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures.llada import SEES_ALL
from convert.architectures.qwen2 import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("dream", default_epsilon=1e-6, rotary=Rotary(("linear", "yarn")), square=True)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(Config(values), GRAPH)
    fields = [Field.boolean("dream.attention.causal", False)]
    return decoder_spec(decoder, ROWS, fields, extra=Extra(notes=[SEES_ALL]))


FAMILY = Family(
    name="dream",
    title="Dream",
    classes=("DreamModel",),
    text=text,
    graphs="",
)
