"""RND1: Qwen3-MoE's layers, all of whose tokens see each other; masked tokens are filled in, by diffusion."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures.llada import SEES_ALL
from convert.architectures.qwen3_moe import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("rnd1", default_epsilon=1e-6, rotary=Rotary(("linear", "yarn")))
FIXED = {"attention_bias": False, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's rnd1 graph has no other")
    experts = read_experts(decoder)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        Field.boolean("rnd1.attention.causal", False),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields, extra=Extra(notes=[SEES_ALL]))


FAMILY = Family(
    name="rnd1",
    title="RND1",
    classes=("RND1",),
    text=text,
    graphs="",
)
