"""Kimi-Linear: delta attention with a decay for every channel, and some layers that attend through latent vectors.

Neither knows of positions; experts one shared, after dense layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import Experts, expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, expand
from convert.architectures._rows import ENDS, MLP, NORMS, QKV, B, L, named
from convert.architectures._rows import EXPERTS as ANY_EXPERTS
from convert.architectures._state_space import negative_exp
from convert.architectures.deepseek2 import (
    CORRECTION,
    EPSILON_NOTE,
    GATING,
    LATENT,
    LATENT_EPSILON,
    QUERY,
    SHARED,
    keys_and_values,
)
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("kimi-linear", default_epsilon=1e-5, grouped=False)
DEFAULTS = {  # transformers' own where the config is silent
    "num_shared_experts": 1,
    "routed_scaling_factor": 2.446,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_experts_per_token": 8,
    "num_experts": 256,
    "moe_intermediate_size": 1024,
    "model_max_length": 1048576,
}
WORDS = {
    "head_dim": "qk_rope_head_dim",
    "max_position_embeddings": "model_max_length",
    "num_experts_per_tok": "num_experts_per_token",
    "n_shared_experts": "num_shared_experts",
}
FIXED = {
    "q_lora_rank": None,
    "attention_bias": False,
    "moe_renormalize": True,
    "moe_layer_freq": 1,
    "moe_router_activation_func": "sigmoid",
    "num_expert_group": 1,
    "tie_word_embeddings": False,
}
ATTN, MOE = f"{L}.self_attn", "block_sparse_moe"
DELTA: tuple[TensorRule, ...] = (
    *((source, name, ("channels", "hidden")) for source, name, *_ in QKV),
    *(
        (f"{ATTN}.{x}_conv1d.weight", f"{B}.ssm_conv1d_{x}.weight", ("channels", "one", "kernel"), "kernel")
        for x in "qkv"
    ),
    (f"{ATTN}.f_a_proj.weight", f"{B}.ssm_f_a.weight", ("channel_head", "hidden")),
    (f"{ATTN}.f_b_proj.weight", f"{B}.ssm_f_b.weight", ("channels", "channel_head")),
    (f"{ATTN}.g_a_proj.weight", f"{B}.ssm_g_a.weight", ("channel_head", "hidden")),
    (f"{ATTN}.g_b_proj.weight", f"{B}.ssm_g_b.weight", ("channels", "channel_head")),
    (f"{ATTN}.b_proj.weight", f"{B}.ssm_beta.weight", ("heads", "hidden")),
    (f"{ATTN}.A_log", f"{B}.ssm_a", ("one", "one", "heads", "one"), "decay"),
    (f"{ATTN}.dt_bias", f"{B}.ssm_dt.bias", ("channels",)),
    (f"{ATTN}.o_norm.weight", f"{B}.ssm_norm.weight", ("channel_head",)),
    (f"{ATTN}.o_proj.weight", f"{B}.attn_output.weight", ("hidden", "channels")),
)
PARTS = (("gate_proj", "w1"), ("up_proj", "w3"), ("down_proj", "w2"))
SPARSE: tuple[TensorRule, ...] = (
    (f"{L}.{MOE}.gate.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    *named([CORRECTION, *SHARED], ("mlp", MOE)),
    *named(ANY_EXPERTS, ("mlp", MOE), *PARTS),
)
TRANSFORMS = {
    "decay": Transform(change=negative_exp),
    # as ggml has the weights of a convolution: (1, channels, 1, width)
    "kernel": Transform(lambda weight: weight[None], resized=lambda shape: (1, *shape)),
}


@dataclass(frozen=True)
class _Layers:
    """Which layers attend, and the size of a head and of a convolution in the others."""

    attending: Sequence[int]
    head: int
    kernel: int


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS).spelled(**WORDS)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's kimi-linear graph has no other")
    config.require("num_key_value_heads", decoder.heads, "every head has its own rows in kv_b_proj")
    layers, experts = _layers(decoder), read_experts(decoder)
    decoder = _sized(with_experts(decoder, experts), layers)
    dense = config.size("first_k_dense_replace", 1, most=decoder.layers, least=0)
    rest = [i for i in range(decoder.layers) if i not in layers.attending]
    tensors = (
        *expand((*LATENT, *QUERY), decoder.sizes, layers=layers.attending),
        *keys_and_values(decoder.sizes, decoder.heads, layers.attending),
        *expand(DELTA, decoder.sizes, TRANSFORMS, rest),
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(SPARSE, decoder.sizes, layers=range(dense, decoder.layers)),
    )
    if decoder.epsilon != LATENT_EPSILON:
        decoder = replace(decoder, notes=(*decoder.notes, EPSILON_NOTE))
    fields = _fields(decoder, layers, experts, dense)
    return decoder_spec(decoder, (*ENDS, *NORMS), fields, extra=Extra(tensors=tensors))


def _layers(decoder: Decoder) -> _Layers:
    """The kinds of layers, which configs number from 1."""
    config = decoder.config
    linear = config.sub("linear_attn_config")
    linear.require("num_heads", decoder.heads, "llama.cpp's graph has as many heads in all layers")
    kinds = config.words("layer_types", decoder.layers, ("linear_attention", "full_attention"))
    if kinds:
        attending = [i for i, kind in enumerate(kinds) if kind == "full_attention"]
    elif linear.has("full_attn_layers"):
        attending = [i - 1 for i in linear.sizes("full_attn_layers", most=decoder.layers) if i]
    else:
        attending = [i for i in range(1, decoder.layers) if i % 4 == 0]
    return _Layers(attending, linear.size("head_dim", 128), linear.size("short_conv_kernel_size", 4))


def _sized(decoder: Decoder, layers: _Layers) -> Decoder:
    """The decoder with the dimensions of both kinds of attention."""
    config, heads = decoder.config, decoder.heads
    plain, value = config.size("qk_nope_head_dim"), config.size("v_head_dim")
    return decoder.having(
        plain=plain,
        rope=decoder.head_dim,
        value=value,
        queries=heads * (plain + decoder.head_dim),
        values=heads * value,
        latent=config.size("kv_lora_rank"),
        shared=config.size("n_shared_experts") * decoder.sizes["expert_ffn"],
        heads=heads,
        channels=heads * layers.head,
        channel_head=layers.head,
        kernel=layers.kernel,
        one=1,
    )


def _fields(decoder: Decoder, layers: _Layers, experts: Experts, dense: int) -> list[Field]:
    config, size = decoder.config, decoder.sizes
    numbers = {
        "vocab_size": decoder.vocab,
        "ssm.conv_kernel": layers.kernel,
        "kda.head_dim": layers.head,
        "attention.kv_lora_rank": size["latent"],
        "attention.key_length": size["latent"] + size["rope"],
        "attention.value_length": size["rope"],
        "attention.key_length_mla": size["plain"] + size["rope"],
        "attention.value_length_mla": size["value"],
        "rope.dimension_count": size["rope"],
        "expert_shared_count": config.size("n_shared_experts"),
        "leading_dense_block_count": dense,
        "expert_gating_func": GATING["sigmoid"],
    }
    groups = ["expert_group_used_count"] if config.has("topk_group") else []
    # in the latent space all heads share one; 0 says that a layer does not attend
    shared = [int(i in layers.attending) for i in range(decoder.layers)]
    return [
        *(Field.uint32(f"kimi-linear.{key}", value) for key, value in numbers.items()),
        *(Field.uint32(f"kimi-linear.{key}", config.size("topk_group")) for key in groups),
        *expert_fields(decoder, experts),
        Field.int32s("kimi-linear.attention.head_count_kv", shared),
        Field.float32("kimi-linear.expert_weights_scale", config.number("routed_scaling_factor")),
    ]


FAMILY = Family(
    name="kimi_linear",
    title="Kimi-Linear",
    classes=("KimiLinearForCausalLM", "KimiLinearModel"),
    text=text,
)
