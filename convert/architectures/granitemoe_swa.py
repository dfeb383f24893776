"""Granite-MoE with windows: attention with sinks, layers without positions, gate and up of an expert in one tensor."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, NORMS, B, L
from convert.architectures._window import FULL, SLIDING
from convert.architectures.granitemoe import MOE, MULTIPLIERS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("granite_swa", default_epsilon=1e-6, rotary=Rotary(()), square=True, windowed=True)
EXPERTS: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.sinks", f"{B}.attn_sinks.weight", ("heads",)),
    (f"{MOE}.router.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (
        f"{MOE}.experts.gate_up_proj",
        f"{B}.ffn_gate_up_exps.weight",
        ("experts", "expert_ffn+expert_ffn", "hidden"),
    ),
    (f"{MOE}.experts.down_proj", f"{B}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
)
SHARED: tuple[TensorRule, ...] = (
    (
        f"{L}.shared_mlp.input_linear.weight",
        f"{B}.ffn_up_shexp.weight",
        ("shared+shared", "hidden"),
        TensorRole.SHARED_GATE_UP,
    ),
    (f"{L}.shared_mlp.output_linear.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "shared")),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *EXPERTS)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(sliding_window=128)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's granite_swa graph has no biases in front of attention")
    experts = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
    shared = config.size("shared_intermediate_size", 0, least=0)
    decoder = with_experts(decoder, experts).having(shared=shared, heads=decoder.heads)
    fields = [
        Field.uint32("granite_swa.vocab_size", decoder.vocab),
        Field.uint32("granite_swa.rope.dimension_count", decoder.head_dim),
        *expert_fields(decoder, experts, width=False),
        *(Field.float32(f"granite_swa.{name}", config.number(key, 1.0)) for key, name in MULTIPLIERS.items()),
        Field.uint32("granite_swa.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT)),
        Field.booleans("granite_swa.attention.sliding_window_pattern", _sliding(decoder)),
        *_turning(decoder),
    ]
    if shared:
        fields.append(Field.uint32("granite_swa.expert_shared_feed_forward_length", shared))
    rows = (*ROWS, *(SHARED if shared else ()))
    return decoder_spec(decoder, rows, fields, side_by_side(decoder))


def _sliding(decoder: Decoder) -> tuple[bool, ...]:
    """Which layers have a window: where the config is silent, all but each fourth from the first on."""
    kinds = decoder.config.words("layer_types", decoder.layers, (SLIDING, FULL))
    return tuple(kind == SLIDING for kind in kinds) or tuple(i % 4 > 0 for i in range(decoder.layers))


def _turning(decoder: Decoder) -> list[Field]:
    """Which layers know positions, where not all do: a layer_rope_theta of 0, or a 0 in no_rope_layers."""
    config, layers = decoder.config, decoder.layers
    turning = [True] * layers
    if config.has("layer_rope_theta"):
        thetas = config.numbers("layer_rope_theta", layers)
        others = sorted({theta for theta in thetas if theta and decoder.rope and theta != decoder.rope.theta})
        if others:
            config.complain("layer_rope_theta", others, "rope_theta or 0", "llama.cpp has one base for all layers")
        turning = [theta > 0 for theta in thetas]
    if config.has("no_rope_layers"):
        turning = [bool(one) for one in config.sizes("no_rope_layers", most=1)]
    if len(turning) != layers:
        config.complain("no_rope_layers", turning, f"{layers} numbers, one for a layer")
    stated = config.has("no_rope_layers") or not all(turning)
    return [Field.booleans("granite_swa.attention.rope_pattern", turning)] if stated else []


FAMILY = Family(
    name="granitemoe_swa",
    title="Granite-MoE with windows",
    classes=("GraniteMoeSWAForCausalLM",),
    text=text,
)
