"""Qwen3.5-MoE: Qwen3.5 with experts and a shared one in every layer, all of a layer's experts in one tensor."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures import _qwen_vision as qwen
from convert.architectures._decoder import Graph, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ROUTER, B, L
from convert.architectures.qwen2_moe import SHARED
from convert.architectures.qwen3_5 import hybrid_spec, text_config
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen35moe", rotary=Rotary(partial=0.25))
WIDTHS = {"shared_expert_intermediate_size": 512, "moe_intermediate_size": 512}  # where the config is silent
EXPERTS: tuple[TensorRule, ...] = (
    (
        f"{L}.mlp.experts.gate_up_proj",
        (f"{B}.ffn_gate_exps.weight", f"{B}.ffn_up_exps.weight"),
        ("experts", "expert_ffn+expert_ffn", "hidden"),
    ),
    (f"{L}.mlp.experts.down_proj", f"{B}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = text_config(values).with_defaults(**WIDTHS)
    decoder = read_decoder(config, replace(GRAPH, mlp=config.has("intermediate_size")))
    config.require("norm_topk_prob", True, "llama.cpp's qwen35moe graph always normalizes")
    experts = read_experts(decoder)
    shared = config.size("shared_expert_intermediate_size")
    fields = [
        *expert_fields(decoder, experts),
        Field.uint32("qwen35moe.expert_shared_feed_forward_length", shared),
    ]
    decoder = with_experts(decoder, experts).having(shared=shared)
    return hybrid_spec(decoder, (*ROUTER, *EXPERTS, *SHARED), fields)


FAMILY = Family(
    name="qwen3_5_moe",
    title="Qwen3.5-MoE",
    classes=("Qwen3_5MoeForCausalLM",),
    text=text,
    renames=qwen.RENAMES,
    graphs="",
)
