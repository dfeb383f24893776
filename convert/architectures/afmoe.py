"""Trinity (AFMoE): a gate behind attention, positions within windows only, norms on both sides; shared experts."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, QK_NORM, ROUTER, B, L, named
from convert.architectures._sparse import dense_layers, group_fields, routing_fields, sparse_layers
from convert.architectures._window import require_every
from convert.architectures.deepseek2 import SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("afmoe", default_epsilon=1e-5, rotary=Rotary(()), windowed=True)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",)),
    (f"{L}.pre_mlp_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.post_mlp_layernorm.weight", f"{B}.post_ffw_norm.weight", ("hidden",)),
)
GATE: TensorRule = (f"{L}.self_attn.gate_proj.weight", f"{B}.attn_gate.weight", ("q", "hidden"))
CORRECTION: TensorRule = (f"{L}.mlp.expert_bias", f"{B}.exp_probs_b.bias", ("experts",))
ROWS = (*ENDS, *NORMS, *ATTENTION, GATE, *QK_NORM)
MOE = (*named(ROUTER, ("mlp.gate.", "mlp.router.gate.")), CORRECTION, *EXPERTS)
FIXED = {"attention_bias": False, "score_func": "sigmoid", "route_norm": True, "n_group": 1, "topk_group": 1}
EVERY = 4  # a layer without a window, and without positions (llama-hparams.h, n_no_rope_layer_step)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128, sliding_window=1024, num_shared_experts=2)
    config = config.spelled(sliding_window_pattern="global_attn_every_n_layers")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's afmoe graph has no other")
    if not config.flag("mup_enabled"):
        config.complain("mup_enabled", False, "true", "llama.cpp's afmoe graph always scales the embedding")
    experts = read_experts(decoder)
    shared = config.size("num_shared_experts", least=0)
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers, "num_dense_layers", 1)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(decoder, "sigmoid", scale=config.number("route_scale", 1.0), normalized=True),
        Field.uint32("afmoe.vocab_size", decoder.vocab),
        Field.uint32("afmoe.rope.dimension_count", decoder.head_dim),
        Field.uint32("afmoe.leading_dense_block_count", dense),
        Field.uint32("afmoe.expert_shared_count", shared),
        Field.uint32("afmoe.attention.sliding_window", require_every(config, decoder.layers, EVERY)),
    ]
    moe = (*MOE, *(SHARED if shared else ()))
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=sparse_layers(decoder, moe, dense)))


FAMILY = Family(
    name="afmoe",
    title="Trinity (AFMoE)",
    classes=("AfmoeForCausalLM",),
    text=text,
)
