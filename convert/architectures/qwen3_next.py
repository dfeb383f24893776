"""Qwen3-Next: gated delta nets and, in every fourth layer, gated attention; experts and a shared one in all."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._delta_net import (
    ALWAYS,
    ATTENTION,
    DEFAULTS,
    DRAFTS,
    LN,
    RECURRENT,
    check_attention,
    delta_net_fields,
    fused_projections,
    grouping,
    of_state_space,
    read_delta_net,
    with_delta_net,
)
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import EXPERTS, ROUTER, B
from convert.architectures.qwen2_moe import SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen3next", rotary=Rotary(partial=0.25))
MOE = {"shared_expert_intermediate_size": 512, "moe_intermediate_size": 512}  # where the config is silent
BETA_ALPHA: TensorRule = (f"{LN}.in_proj_ba.weight", f"{B}.ssm_ba.weight", ("value_heads+value_heads", "hidden"))
ALL_LAYERS = "llama.cpp's qwen3next graph has experts in every layer"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS, **MOE).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    check_attention(config)
    config.require("norm_topk_prob", True, "llama.cpp's qwen3next graph always normalizes")
    config.require("decoder_sparse_step", 1, ALL_LAYERS)
    config.require("mlp_only_layers", [], ALL_LAYERS)
    experts, net = read_experts(decoder), read_delta_net(config, decoder.layers)
    shared = config.size("shared_expert_intermediate_size")
    decoder = with_delta_net(with_experts(decoder, experts).having(shared=shared), net)
    fields = [
        *delta_net_fields(decoder, net),
        *expert_fields(decoder, experts),
        Field.uint32("qwen3next.expert_shared_feed_forward_length", shared),
    ]
    transforms = grouping()
    tensors = (
        *expand(ATTENTION, decoder.sizes, transforms, net.layers(recurrent=False)),
        *of_state_space(expand((*RECURRENT, BETA_ALPHA), decoder.sizes, transforms, net.layers(recurrent=True))),
        *of_state_space(fused_projections(decoder, net, net.layers(recurrent=True))),
    )
    rows = (*ALWAYS, *ROUTER, *EXPERTS, *SHARED)
    return decoder_spec(decoder, rows, fields, transforms, Extra(tensors=tensors, left_out=[DRAFTS]))


FAMILY = Family(
    name="qwen3_next",
    title="Qwen3-Next",
    classes=("Qwen3NextForCausalLM",),
    text=text,
    tested=("onnx",),
)
