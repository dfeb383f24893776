"""Hy3: norms of queries and keys, experts chosen by sigmoids with a bias, and shared ones beside them."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, MLP, NORMS, QK_NORM, ROUTER, B, L, named
from convert.architectures._sparse import routing_fields
from convert.architectures.deepseek2 import SHARED, drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("hy_v3", default_epsilon=1e-5, rotary=Rotary(theta=11158840.0))
CORRECTION: TensorRule = (f"{L}.mlp.expert_bias", f"{B}.exp_probs_b", ("experts",))  # no .bias in llama.cpp's name
MOE = (
    *named(ROUTER, ("mlp.gate", "mlp.router.gate")),
    CORRECTION,
    *EXPERTS,
    *named(SHARED, ("shared_experts", "shared_mlp")),
)
PLAIN = {"attention_bias": False, "mlp_bias": False, "qk_norm": True, "route_norm": True}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128, num_shared_experts=1, router_scaling_factor=2.826)
    config = config.spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's hy_v3 graph has no other")
    experts = read_experts(decoder)
    decoder = with_experts(decoder, experts).having(shared=config.size("num_shared_experts") * experts.ffn)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *routing_fields(decoder, "sigmoid", scale=config.number("router_scaling_factor"), normalized=True),
        Field.uint32("hy_v3.expert_shared_feed_forward_length", decoder.sizes["shared"]),
    ]
    dense = _dense(decoder)
    sparse = [i for i in range(decoder.layers) if i not in dense]
    tensors = (*expand(MLP, decoder.sizes, layers=dense), *expand(MOE, decoder.sizes, layers=sparse))
    rows = (*ENDS, *NORMS, *ATTENTION, *QK_NORM)
    return decoder_spec(decoder, rows, fields, extra=Extra(tensors=tensors, left_out=drafts(decoder)))


def _dense(decoder: Decoder) -> list[int]:
    """The layers without experts; llama.cpp tells them by their tensors."""
    config, layers = decoder.config, decoder.layers
    if kinds := config.words("mlp_layer_types", layers, ("dense", "sparse")):
        return [i for i, kind in enumerate(kinds) if kind == "dense"]
    return list(range(config.size("first_k_dense_replace", 1, most=layers, least=0)))


FAMILY = Family(
    name="hy_v3",
    title="Hy3",
    classes=("HYV3ForCausalLM",),
    text=text,
)
