"""dots.llm1: norms of queries and keys, experts chosen by sigmoids and shared ones, after some dense layers."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER
from convert.architectures._sparse import dense_layers, group_fields, routing_fields, sparse_layers
from convert.architectures.deepseek2 import CORRECTION, SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("dots1", default_epsilon=1e-6)
MOE = (*ROUTER, CORRECTION, *EXPERTS, *SHARED)
WHY = "llama.cpp's dots1 graph has no other"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # transformers' window is in the layers from max_window_layers on
    config = Config(values).with_defaults(routed_scaling_factor=1.0, max_window_layers=62)
    config = config.spelled(num_experts="n_routed_experts")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in (("attention_bias", False), ("num_key_value_heads", decoder.heads), ("scoring_func", "sigmoid")):
        config.require(key, wanted, WHY)
    config.require("tie_word_embeddings", False, "llama.cpp's dots1 graph wants a head of its own")
    experts = read_experts(decoder)
    shared = config.size("n_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(
            decoder,
            "sigmoid",
            scale=config.number("routed_scaling_factor"),
            normalized=config.flag("norm_topk_prob"),
        ),
        Field.uint32("dots1.leading_dense_block_count", dense),
        Field.uint32("dots1.expert_shared_count", shared),
    ]
    rows = (*ENDS, *NORMS, *ATTENTION, *QK_NORM)
    return decoder_spec(decoder, rows, fields, extra=Extra(tensors=sparse_layers(decoder, MOE, dense)))


FAMILY = Family(
    name="dots1",
    title="dots.llm1",
    classes=("Dots1ForCausalLM",),
    text=text,
)
