"""DeepSeekMoE, the first with this layout: Llama's attention, experts weighed by a softmax over all, shared ones."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import Experts, expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER
from convert.architectures._sparse import NO_SUCH_LAYERS, dense_layers, routing_fields, sparse_layers
from convert.architectures.deepseek2 import SHARED
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("deepseek", default_epsilon=1e-6, rotary=Rotary(()), square=True)
MOE = (*ROUTER, *EXPERTS, *SHARED)
FIXED = {"attention_bias": False, "scoring_func": "softmax", "norm_topk_prob": False}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(num_experts="n_routed_experts")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's deepseek graph has no other")
    config.require("moe_layer_freq", 1, NO_SUCH_LAYERS)
    experts = read_experts(decoder)
    shared = config.size("n_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers)
    fields = [
        *plain_fields(decoder, experts, dense, shared),
        *routing_fields(decoder, "softmax" if config.has("scoring_func") else ""),
        Field.string("deepseek.rope.scaling.type", "none"),
    ]
    extra = Extra(tensors=sparse_layers(decoder, MOE, dense))
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION), fields, side_by_side(decoder), extra)


def plain_fields(decoder: Decoder, experts: Experts, dense: int, shared: int) -> list[Field]:
    """What this graph and Ling's first (bailingmoe.py) are told of heads and experts."""
    prefix = decoder.graph.name
    return [
        *expert_fields(decoder, experts),
        *routing_fields(decoder, scale=1.0),
        Field.uint32(f"{prefix}.rope.dimension_count", decoder.head_dim),
        Field.uint32(f"{prefix}.vocab_size", decoder.vocab),
        Field.uint32(f"{prefix}.leading_dense_block_count", dense),
        Field.uint32(f"{prefix}.expert_shared_count", shared),
    ]


FAMILY = Family(
    name="deepseek",
    title="DeepSeekMoE",
    classes=("DeepseekForCausalLM",),
    text=text,
)
