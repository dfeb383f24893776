"""Hunyuan-A13B: norms of queries and keys after RoPE, experts in every layer and an MLP that every token passes."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, B, L, named
from convert.architectures.deepseek2 import SHARED
from convert.architectures.hunyuan_v1_dense import stretched
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("hunyuan-moe", default_epsilon=1e-5)
ROUTER: TensorRule = (f"{L}.mlp.gate.wg.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden"))
ROWS = (
    *ENDS,
    *NORMS,
    *ATTENTION,
    *named(QK_NORM, ("q_norm", "query_layernorm"), ("k_norm", "key_layernorm")),
    ROUTER,
    *EXPERTS,
    *named(SHARED, ("shared_experts", "shared_mlp")),
)
PLAIN = {"attention_bias": False, "mlp_bias": False, "use_qk_norm": True, "use_mixed_mlp_moe": True, "use_cla": False}
PER_LAYER = ("moe_topk", "num_shared_expert", "moe_intermediate_size", "num_experts")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = stretched(_same_in_all(Config(values))).spelled(num_experts_per_tok="moe_topk")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's hunyuan-moe graph has no other")
    config.require("num_shared_expert", 1, "transformers has one shared MLP")
    config.require("moe_intermediate_size", decoder.ffn, "transformers gives experts the intermediate_size")
    experts = read_experts(decoder, ffn="intermediate_size")
    decoder = with_experts(decoder, experts).having(shared=decoder.ffn)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        Field.uint32("hunyuan-moe.expert_shared_count", 1),
        Field.uint32("hunyuan-moe.expert_shared_feed_forward_length", decoder.ffn),
    ]
    return decoder_spec(decoder, ROWS, fields)


def _same_in_all(config: Config) -> Config:
    """The config with one number for a list that says the same of every layer."""
    made = dict(config.values)
    for key in PER_LAYER:
        listed = made.get(key)
        if isinstance(listed, list) and listed:
            if any(value != listed[0] for value in listed):
                config.complain(key, listed, "the same for every layer", "llama.cpp has one number for all of them")
            made[key] = listed[0]
    return Config(made, config.where, config.problems)


FAMILY = Family(
    name="hunyuan_v1_moe",
    title="Hunyuan-A13B",
    classes=("HunYuanMoEV1ForCausalLM",),
    text=text,
)
