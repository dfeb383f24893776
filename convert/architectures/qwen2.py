"""Qwen2 and Qwen2.5: biases on query, key and value, always."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._embedder import direction_fields, without_head
from convert.architectures._family import EMBEDDINGS, Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QKV, biases
from convert.json_types import JsonObject

GRAPH = Graph("qwen2", square=True)
EMBEDDERS = ("Qwen2Model",)
ROWS = (*ENDS, *NORMS, *ATTENTION, *biases(QKV), *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = without_head(Config(values), EMBEDDERS)
    return decoder_spec(read_decoder(config, GRAPH), ROWS, direction_fields(config, "qwen2"))


FAMILY = Family(
    name="qwen2",
    title="Qwen2 and Qwen2.5",
    classes=("Qwen2ForCausalLM", *EMBEDDERS),
    text=text,
    gives=dict.fromkeys(EMBEDDERS, EMBEDDINGS),
    tested=("gptq", "onnx"),
)
