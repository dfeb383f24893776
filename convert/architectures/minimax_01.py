"""MiniMax-Text-01 and M1: lightning attention, whose heads forget at fixed rates, and in every eighth layer softmax."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, B, L, named
from convert.architectures.mixtral import PUBLISHED
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GRAPH = Graph("minimax-01", default_epsilon=1e-5, rotary=Rotary(theta=1000000.0, partial=1.0))
LIGHTNING: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+q+q", "hidden")),  # of every head q, k, v
    (f"{L}.self_attn.output_gate.weight", f"{B}.attn_gate.weight", ("q", "hidden")),
    (f"{L}.self_attn.norm.weight", f"{B}.attn_norm_2.weight", ("q",)),
    (f"{L}.self_attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
)
TRANSFORMERS = "MiniMaxForCausalLM"  # the same model under the words of transformers' own class
PARTS = ("full_attn", "linear_attn", "mlp"), ("full_attention", "linear_attention", "mlp")
INTERVAL = 8  # llama.cpp, models/minimax-01.cpp: where the file does not say which layers are which
RATES = [
    LeftOut(f".self_attn.{name}", "llama.cpp computes how fast heads forget itself")
    for name in ("slope_rate", "query_decay", "key_decay", "diagonal_decay")
]
NORM_EPSILON = 1e-6  # transformers, modeling_minimax.py: of the norm behind lightning attention
EPSILON_NOTE = "the source's norm behind lightning attention has {:g} for epsilon, llama.cpp's that of all others"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = _config(values)
    decoder = read_decoder(config, GRAPH)
    experts = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
    decoder = with_experts(decoder, experts)
    for key in ("shared_intermediate_size", "sliding_window"):
        if config.values.get(key):
            config.complain(key, config.values[key], "0 or null", "llama.cpp's minimax-01 graph has no such thing")
    attends = _attends(config, decoder.layers)
    usual = [(i + 1) % INTERVAL == 0 for i in range(decoder.layers)]
    name = decoder.graph.name
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        *expert_fields(decoder, experts, width=False),
        Field.float32(f"{name}.residual_scale", _residual(config, class_of(values) == TRANSFORMERS)),
        *([] if attends == usual else [Field.booleans(f"{name}.attention.recurrent_layers", [not a for a in attends])]),
    ]
    layers = range(decoder.layers)
    tensors = (
        *expand(ATTENTION, decoder.sizes, layers=[i for i in layers if attends[i]]),
        *expand(LIGHTNING, decoder.sizes, layers=[i for i in layers if not attends[i]]),
    )
    notes = [EPSILON_NOTE.format(NORM_EPSILON)] if decoder.epsilon != NORM_EPSILON else []
    rows = (*ENDS, *NORMS, *named((*ROUTER, *EXPERTS), *PUBLISHED))
    return decoder_spec(decoder, rows, fields, extra=Extra(tensors=tensors, left_out=RATES, notes=notes))


def _config(values: JsonObject) -> Config:
    """The config, with the part of a head that turns as most models say it."""
    config = Config(values)
    if not config.has("rotary_dim"):
        return config
    head = config.size("head_dim", max(1, config.size("hidden_size") // config.size("num_attention_heads")))
    part = config.size("rotary_dim", most=head) / head
    return Config({**values, "partial_rotary_factor": part}, config.where, config.problems)


def _attends(config: Config, layers: int) -> list[bool]:
    """Of every layer whether it is one of softmax attention."""
    kinds = config.words("layer_types", layers, ("linear_attention", "full_attention"))
    if kinds:
        return [kind == "full_attention" for kind in kinds]
    numbers = config.sizes("attn_type_list", most=1) if config.has("attn_type_list") else ()
    if numbers and len(numbers) != layers:
        config.complain("attn_type_list", f"{len(numbers)} numbers", f"one for each of {layers} layers")
        return [False] * layers
    return [bool(number) for number in numbers] or [i % 2 == 0 for i in range(layers)]


def _residual(config: Config, transformers: bool) -> float:
    """What the residual of attention and of experts is multiplied by, which llama.cpp has one number for."""
    names = [f"{part}_{{}}_factor" for part in PARTS[0]] if transformers else [f"layernorm_{p}_{{}}" for p in PARTS[1]]
    alphas = [config.number(name.format("alpha"), 1.0) for name in names]
    for name in names:
        config.require(name.format("beta"), 1, "llama.cpp's minimax-01 graph has no other")
        if config.number(name.format("alpha"), 1.0) != alphas[0]:
            config.complain(
                name.format("alpha"), config.values.get(name.format("alpha")), f"{alphas[0]:g}, as the others"
            )
    if not transformers:
        config.require("postnorm", True, "llama.cpp's minimax-01 graph takes residuals behind the norms")
    return alphas[0]


FAMILY = Family(
    name="minimax_01",
    title="MiniMax-Text-01, M1",
    classes=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM", TRANSFORMERS),
    text=text,
    graphs="",
)
