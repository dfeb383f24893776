"""Qwen3-MoE: Qwen3 with a router and experts in every layer.

A checkpoint has every expert's three matrices apart (transformers 5 joins them only in memory); a GGUF file has one
tensor of all experts for each of the three.
"""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER
from convert.json_types import JsonObject

GRAPH = Graph("qwen3moe")
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *ROUTER, *EXPERTS)
ALL_LAYERS = "llama.cpp's qwen3moe graph has experts in every layer"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # transformers 5 writes num_local_experts
    config = Config(values).with_defaults(head_dim=128).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's qwen3moe graph has no output bias")
    if not config.flag("norm_topk_prob"):
        config.complain("norm_topk_prob", False, "true", "llama.cpp's qwen3moe graph always normalizes")
    config.require("decoder_sparse_step", 1, ALL_LAYERS)
    config.require("mlp_only_layers", [], ALL_LAYERS)
    experts = read_experts(decoder)
    fields = [*head_size_fields(decoder), *expert_fields(decoder, experts)]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields)


FAMILY = Family(
    name="qwen3_moe",
    title="Qwen3-MoE",
    classes=("Qwen3MoeForCausalLM",),
    text=text,
    tested=("onnx",),
)
