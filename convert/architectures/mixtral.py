"""Mixtral: Mistral with a router and experts in every layer; llama.cpp runs it with its `llama` graph."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, named
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("llama", default_epsilon=1e-5, rotary=Rotary(theta=1e6))
PUBLISHED = (("mlp", "block_sparse_moe"), ("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"))
ROWS = (*ENDS, *NORMS, *ATTENTION, *named((*ROUTER, *EXPERTS), *PUBLISHED))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    experts = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        Field.uint32("llama.vocab_size", decoder.vocab),
        Field.uint32("llama.rope.dimension_count", decoder.head_dim),
        *expert_fields(decoder, experts, width=False),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields, side_by_side(decoder))


FAMILY = Family(
    name="mixtral",
    title="Mixtral",
    classes=("MixtralForCausalLM",),
    text=text,
)
