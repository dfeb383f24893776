"""Qwen3: a norm on every query and key head, heads of their own size, no biases."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._embedder import direction_fields, without_head
from convert.architectures._family import EMBEDDINGS, Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QK_NORM
from convert.json_types import JsonObject

GRAPH = Graph("qwen3")
EMBEDDERS = ("Qwen3Model",)
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = without_head(Config(values).with_defaults(head_dim=128), EMBEDDERS)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's qwen3 graph has no output bias")
    return decoder_spec(decoder, ROWS, [*head_size_fields(decoder), *direction_fields(config, "qwen3")])


FAMILY = Family(
    name="qwen3",
    title="Qwen3",
    classes=("Qwen3ForCausalLM", *EMBEDDERS),
    text=text,
    gives=dict.fromkeys(EMBEDDERS, EMBEDDINGS),
    tested=("gptq", "onnx"),
)
