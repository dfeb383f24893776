"""Laguna: attention behind a gate of softplus, windows with heads of their own number, experts and a shared one."""

from __future__ import annotations

from collections.abc import Sequence

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER, B, L, named
from convert.architectures._sparse import dense_layers, routing_fields, sparse_layers
from convert.architectures._window import FULL, SLIDING
from convert.architectures.deepseek2 import SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("laguna", default_epsilon=1e-6, rotary=Rotary(("yarn",), theta=500000.0, partial=1.0), windowed=True)
GATE: TensorRule = (f"{L}.self_attn.g_proj.weight", f"{B}.attn_gate.weight", ("gate", "hidden"))
CORRECTION: TensorRule = (f"{L}.mlp.experts.e_score_correction_bias", f"{B}.exp_probs_b.bias", ("experts",))
MOE = (*ROUTER, CORRECTION, *EXPERTS, *named(SHARED, ("shared_experts", "shared_expert")))
ROTARY: JsonObject = {  # transformers' own
    FULL: {"rope_type": "default", "rope_theta": 500000.0, "partial_rotary_factor": 0.5},
    SLIDING: {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
}
FIXED = {
    "attention_bias": False,
    "moe_apply_router_weight_on_input": False,
    "moe_router_logit_softcapping": 0.0,
}
EVERY = 4  # in llama.cpp, where the file says nothing: a layer without a window, then three with one


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(
        head_dim=128, sliding_window=512, shared_expert_intermediate_size=512, rope_parameters=ROTARY
    )
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's laguna graph has no other")
    experts = read_experts(decoder)
    decoder = with_experts(decoder, experts).having(shared=config.size("shared_expert_intermediate_size"))
    dense = _dense(decoder)
    sliding = tuple(k == SLIDING for k in config.words("layer_types", decoder.layers, (SLIDING, FULL)))
    sliding = sliding or (False,) * decoder.layers
    heads = _heads(decoder)
    fields = [
        Field.int32s("laguna.attention.head_count", heads),
        *head_size_fields(decoder),
        *_window_fields(decoder, sliding),
        Field.uint32("laguna.vocab_size", decoder.vocab),
        *expert_fields(decoder, experts),
        Field.uint32("laguna.expert_shared_feed_forward_length", decoder.sizes["shared"]),
        *routing_fields(decoder, "sigmoid", scale=config.number("moe_routed_scaling_factor", 1.0), normalized=True),
        Field.uint32("laguna.leading_dense_block_count", dense),
    ]
    tensors = (*_attention(decoder, heads), *sparse_layers(decoder, MOE, dense))
    return decoder_spec(decoder, (*ENDS, *NORMS, *QK_NORM), fields, extra=Extra(tensors=tensors))


def _dense(decoder: Decoder) -> int:
    """How many layers have no experts; mlp_layer_types says it, or there is one."""
    config, kinds = decoder.config, decoder.config.values.get("mlp_layer_types")
    count = kinds.index("sparse") if isinstance(kinds, list) and "sparse" in kinds else 1
    return dense_layers(config, decoder.layers, default=min(count, decoder.layers))


def _heads(decoder: Decoder) -> list[int]:
    """The number of heads in each layer."""
    config, key = decoder.config, "num_attention_heads_per_layer"
    if not config.has(key):
        return [decoder.heads] * decoder.layers
    heads = config.sizes(key, most=1024)
    if len(heads) != decoder.layers or any(count < 1 or count % decoder.kv_heads for count in heads):
        config.complain(key, heads, f"{decoder.layers} multiples of num_key_value_heads, {decoder.kv_heads}")
        return [decoder.heads] * decoder.layers
    return list(heads)


def _window_fields(decoder: Decoder, sliding: Sequence[bool]) -> list[Field]:
    """Windows and the positions in them; in a model of whole layers the file says of neither."""
    config = decoder.config
    if not any(sliding):
        return []
    fields = [Field.uint32("laguna.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT))]
    if any(windowed != (i % EVERY > 0) for i, windowed in enumerate(sliding)):
        fields.append(Field.booleans("laguna.attention.sliding_window_pattern", sliding))
    local = config.sub("rope_parameters").sub(SLIDING)
    local.word("rope_type", "default", ("default",), "llama.cpp scales no positions within windows")
    turning = int(decoder.head_dim * local.number("partial_rotary_factor", 1.0))
    return [
        *fields,
        Field.float32("laguna.rope.freq_base_swa", local.number("rope_theta", 10000.0)),
        Field.uint32("laguna.rope.dimension_count_swa", turning),
    ]


def _attention(decoder: Decoder, heads: Sequence[int]) -> list[SourceTensor]:
    gating = decoder.config.values.get("gating", True)
    if gating not in (True, "per-head", "per-element"):
        decoder.config.complain("gating", gating, 'true, "per-head" or "per-element"')
    made: list[SourceTensor] = []
    for count in sorted(set(heads)):
        queries = count * decoder.head_dim
        sizes = {**decoder.sizes, "q": queries, "gate": queries if gating == "per-element" else count}
        made += expand((*ATTENTION, GATE), sizes, layers=[i for i, own in enumerate(heads) if own == count])
    return made


FAMILY = Family(
    name="laguna",
    title="Laguna",
    classes=("LagunaForCausalLM",),
    text=text,
)
