"""Jamba: layers of Mamba and some of attention without positions; an MLP, or experts in every second layer."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import Experts, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rows import ATTENTION, ENDS, NORMS, B, L, named
from convert.architectures._rows import EXPERTS as ANY_EXPERTS
from convert.architectures._rows import MLP as ANY_MLP
from convert.architectures._state_space import MAMBA, mamba_rows, read_mamba
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("jamba", default_epsilon=1e-6, square=True, rotary=None)
DEFAULTS = {  # transformers' own where the config is silent
    "num_key_value_heads": 8,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
}
ALWAYS: tuple[TensorRule, ...] = (
    ENDS[0],
    ("model.final_layernorm.weight", "output_norm.weight", ("hidden",)),
    NORMS[0],
    (f"{L}.pre_ff_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
)
RECURRENT: tuple[TensorRule, ...] = (
    *mamba_rows(f"{L}.mamba"),
    (f"{L}.mamba.dt_layernorm.weight", f"{B}.ssm_dt_norm.weight", ("steps",)),
    (f"{L}.mamba.b_layernorm.weight", f"{B}.ssm_b_norm.weight", ("state",)),
    (f"{L}.mamba.c_layernorm.weight", f"{B}.ssm_c_norm.weight", ("state",)),
)
MLP = tuple(named(ANY_MLP, ("mlp.", "feed_forward.")))
MOE: tuple[TensorRule, ...] = (
    (f"{L}.feed_forward.router.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    *named(ANY_EXPERTS, ("mlp.", "feed_forward.")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    experts = read_experts(decoder, ffn="intermediate_size")
    mamba = read_mamba(config, decoder.hidden)
    decoder = with_experts(decoder.having(**mamba.sizes), experts)
    attention = _layers(decoder, "attn_layer")
    sparse = _layers(decoder, "expert_layer") if experts.count > 1 else frozenset()
    layers = frozenset(range(decoder.layers))
    tensors = (
        *expand(ATTENTION, decoder.sizes, layers=sorted(attention)),
        *expand(RECURRENT, decoder.sizes, MAMBA, sorted(layers - attention)),
        *expand(MOE, decoder.sizes, layers=sorted(sparse)),
        *expand(MLP, decoder.sizes, layers=sorted(layers - sparse)),
    )
    fields = [
        Field.int32s("jamba.attention.head_count_kv", [decoder.kv_heads * (i in attention) for i in sorted(layers)]),
        *mamba.fields("jamba"),
        *_expert_fields(experts),
    ]
    return decoder_spec(decoder, ALWAYS, fields, extra=Extra(tensors=tensors))


def _expert_fields(experts: Experts) -> list[Field]:
    return [
        Field.uint32("jamba.expert_count", experts.count),
        Field.uint32("jamba.expert_used_count", experts.used),
    ]


def _layers(decoder: Decoder, which: str) -> frozenset[int]:
    """The layers that a period and an offset name."""
    period = decoder.config.size(f"{which}_period")
    offset = decoder.config.size(f"{which}_offset", least=0)
    if offset >= period:
        decoder.config.complain(f"{which}_offset", offset, f"less than {which}_period, {period}")
    return frozenset(i for i in range(decoder.layers) if i % period == offset)


FAMILY = Family(
    name="jamba",
    title="Jamba",
    classes=("JambaForCausalLM",),
    text=text,
)
