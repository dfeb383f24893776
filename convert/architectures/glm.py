"""GLM-4 (9B of 2024) and GLM-Edge in transformers' own layout: half of each head turns, gate and up in one matrix."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import glm4
from convert.architectures._config import Config
from convert.architectures._decoder import decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonObject

GRAPH = replace(glm4.GRAPH, name="chatglm", square=True)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(Config(values).with_defaults(head_dim=128), GRAPH)
    return decoder_spec(decoder, glm4.rows(decoder))


FAMILY = Family(
    name="glm",
    title="GLM-4 (9B of 2024) and GLM-Edge in transformers' own layout",
    classes=("GlmForCausalLM",),
    text=text,
)
