"""MiniMax-Text-01 and M1: linear attention that fades, softmax attention in some layers, experts in all."""

from __future__ import annotations

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, B, L, named
from convert.architectures.mixtral import PUBLISHED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("minimax-01", default_epsilon=1e-5, rotary=Rotary((), theta=1e6, partial=1.0))
LINEAR: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.qkv_proj.weight", f"{B}.attn_qkv.weight", ("q+q+q", "hidden")),
    (f"{L}.self_attn.norm.weight", f"{B}.attn_norm_2.weight", ("q",)),
    (f"{L}.self_attn.output_gate.weight", f"{B}.attn_gate.weight", ("q", "hidden")),
    (f"{L}.self_attn.out_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
)
ROWS = (*ENDS, *NORMS, *named((*ROUTER, *EXPERTS), *PUBLISHED))
FIXED = {"postnorm": True, "shared_intermediate_size": 0, "tie_word_embeddings": False}
ALPHAS = ("layernorm_full_attention_alpha", "layernorm_linear_attention_alpha", "layernorm_mlp_alpha")
BETAS = ("layernorm_full_attention_beta", "layernorm_linear_attention_beta", "layernorm_mlp_beta")
EVERY = 8  # a layer of softmax attention, where the file says nothing (models/minimax-01.cpp)
NORM_EPSILON = 1e-6  # modeling_minimax.py, MiniMaxLightningAttention: whatever rms_norm_eps is
NORM_NOTE = f"the source's norms of linear attention have {NORM_EPSILON:g} for epsilon, llama.cpp's that of all others"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(rotary_dim=values.get("head_dim")).spelled(num_experts="num_local_experts")
    if config.has("rotary_dim") and config.has("head_dim"):
        config = config.with_defaults(partial_rotary_factor=config.size("rotary_dim") / config.size("head_dim"))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's minimax-01 graph has no other")
    alpha = config.number(ALPHAS[0], 1.0)
    for key, factor in (*((key, alpha) for key in ALPHAS), *((key, 1.0) for key in BETAS)):
        if config.number(key, 1.0) != factor:
            why = "llama.cpp has one factor for what goes around attention and experts, and none for what comes out"
            config.complain(key, config.values.get(key), f"{factor:g}", why)
    experts = read_experts(decoder, ffn="intermediate_size")
    decoder = with_experts(decoder, experts)
    linear = _linear(decoder)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts, width=False),
        Field.float32("minimax-01.residual_scale", alpha),
    ]
    if any(fading != ((i + 1) % EVERY > 0) for i, fading in enumerate(linear)):
        fields.append(Field.booleans("minimax-01.attention.recurrent_layers", linear))
    tensors = (
        *expand(LINEAR, decoder.sizes, layers=[i for i, fading in enumerate(linear) if fading]),
        *expand(ATTENTION, decoder.sizes, layers=[i for i, fading in enumerate(linear) if not fading]),
    )
    notes = [NORM_NOTE] if decoder.epsilon != NORM_EPSILON else []
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=tensors, notes=notes))


def _linear(decoder: Decoder) -> list[bool]:
    """Which layers have linear attention: a 0 in attn_type_list."""
    config, layers = decoder.config, decoder.layers
    kinds = config.sizes("attn_type_list", [int((i + 1) % EVERY == 0) for i in range(min(layers, MAX_LAYERS))], most=1)
    if len(kinds) != layers:
        config.complain("attn_type_list", kinds, f"{layers} numbers, one for a layer")
        return [True] * layers
    return [not kind for kind in kinds]


FAMILY = Family(
    name="minimax_01",
    title="MiniMax-Text-01 and M1",
    classes=("MiniMaxText01ForCausalLM", "MiniMaxM1ForCausalLM"),
    text=text,
)
