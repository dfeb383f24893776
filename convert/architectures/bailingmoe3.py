"""Ling 3: delta attention behind gates with a floor, and in the last layer of every group latent attention.

Experts one shared, after dense layers.
"""

from __future__ import annotations

from collections.abc import Mapping

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import Experts, expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, Transform, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import EXPERTS, MLP, NORMS, ROUTER, B, L, named
from convert.architectures._state_space import exact_exp
from convert.architectures.deepseek2 import GATING, LATENT, LATENT_QUERY, QUERY, SHARED, keys_and_values
from convert.architectures.kimi_linear import DELTA
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("bailingmoe3", default_epsilon=1e-6, grouped=False, rotary=Rotary(theta=6000000.0))
DEFAULTS = {  # transformers' own where the config is silent
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_experts": 512,
    "num_experts_per_tok": 8,
    "num_shared_experts": 1,
    "moe_intermediate_size": 768,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "max_position_embeddings": 262144,
}
WORDS = {  # what configs say -> what transformers 5 writes
    "max_position_embeddings": "model_max_length",
    "norm_topk_prob": "moe_renormalize",
    "n_group": "num_expert_group",
    "num_experts_per_tok": "num_experts_per_token",
}
FIXED: Mapping[str, object] = {
    "no_kda_lora": True,
    "kda_safe_gate": True,
    "gated_attention_proj_granularity_type": "head_wise",
    "attention_bias": False,
    "norm_topk_prob": True,
    "score_function": "sigmoid",
}
LIMITS = {"expert_swiglu_limit_list": "swiglu_clamp_exp", "share_expert_swiglu_limit_list": "swiglu_clamp_shexp"}
A, ATTN = f"{L}.attention", (".self_attn.", ".attention.")
RECURRENT: tuple[TensorRule, ...] = (
    *(
        row
        for row in named(DELTA, ATTN)
        if not any(word in row[0] for word in ("f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj", "A_log"))
    ),
    (f"{A}.f_proj.weight", f"{B}.ssm_f_a.weight", ("channels", "hidden")),
    (f"{A}.g_proj.weight", f"{B}.ssm_g_a.weight", ("channels", "hidden")),
    (f"{A}.A_log", f"{B}.ssm_a", ("heads",), "rate"),
)
ATTENTION: tuple[TensorRule, ...] = (
    *((row[0].replace("o_proj", "dense"), *row[1:]) for row in named(LATENT, ATTN)),
    (f"{A}.g_proj.weight", f"{B}.attn_gate.weight", ("heads", "hidden")),
)
SPARSE: tuple[TensorRule, ...] = (
    *ROUTER,
    (f"{L}.mlp.gate.expert_bias", f"{B}.exp_probs_b.bias", ("experts",)),
    *EXPERTS,
    *SHARED,
)
ENDS: tuple[TensorRule, ...] = (
    ("model.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("model.norm.weight", "output_norm.weight", ("hidden",)),
)
TRANSFORMS = {
    "rate": Transform(lambda values: values.reshape(-1, 1), exact_exp, resized=lambda shape: (shape[0], 1)),
    "kernel": Transform(lambda weight: weight[None], resized=lambda shape: (1, *shape)),
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    config = config.spelled(**{key: word for key, word in WORDS.items() if config.has(word)})
    linear_head = config.size("head_dim", 128)
    # a head of the latent layers is what the rest of the table calls one
    config = Config({**config.values, "head_dim": config.size("qk_rope_head_dim")}, config.where, config.problems)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's bailingmoe3 graph has no other")
    experts = read_experts(decoder)
    decoder = _sized(with_experts(decoder, experts), linear_head)
    group, dense = config.size("layer_group_size", 6), config.size("first_k_dense_replace", 2, least=0)
    kinds = config.words("layer_types", decoder.layers, ("linear_attention", "full_attention"))
    attending = (
        [i for i, kind in enumerate(kinds) if kind == "full_attention"] if kinds else _last(decoder.layers, group)
    )
    query = LATENT_QUERY if decoder.sizes["latent_query"] else QUERY
    tensors = (
        *expand((*ATTENTION, *named(query, ATTN)), decoder.sizes, layers=attending),
        *keys_and_values(decoder.sizes, decoder.heads, attending, "attention"),
        *expand(RECURRENT, decoder.sizes, TRANSFORMS, [i for i in range(decoder.layers) if i not in attending]),
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(SPARSE, decoder.sizes, layers=range(dense, decoder.layers)),
    )
    fields = _fields(decoder, experts, attending, dense)
    extra = Extra(tensors=tensors, left_out=_drafts(decoder))
    return decoder_spec(decoder, (*ENDS, *NORMS), fields, extra=extra)


def _last(layers: int, group: int) -> list[int]:
    """The last layer of every group, and those of a group that is not whole."""
    return [i for i in range(layers) if (i + 1) % group == 0 or i >= layers // group * group]


def _drafts(decoder: Decoder) -> list[LeftOut]:
    count = decoder.config.size("num_nextn_predict_layers", 1, most=512, least=0)
    why = "a layer that predicts tokens further ahead"
    return [LeftOut("", why, prefix=f"model.layers.{decoder.layers + i}.") for i in range(count)]


def _sized(decoder: Decoder, linear_head: int) -> Decoder:
    """The decoder with the dimensions of both kinds of attention."""
    config, heads = decoder.config, decoder.heads
    plain, value, rope = config.size("qk_nope_head_dim"), config.size("v_head_dim"), config.size("qk_rope_head_dim")
    shared = config.size("num_shared_experts") * decoder.sizes["expert_ffn"]
    return decoder.having(
        plain=plain,
        rope=rope,
        value=value,
        queries=heads * (plain + rope),
        values=heads * value,
        latent=config.size("kv_lora_rank"),
        latent_query=config.size("q_lora_rank") if config.has("q_lora_rank") else 0,
        shared=config.size("moe_shared_expert_intermediate_size", shared),
        heads=heads,
        channels=heads * linear_head,
        channel_head=linear_head,
        kernel=config.size("short_conv_kernel_size", 4),
        one=1,
    )


def _fields(decoder: Decoder, experts: Experts, attending: list[int], dense: int) -> list[Field]:
    config, size = decoder.config, decoder.sizes
    numbers = {
        "vocab_size": decoder.vocab,
        "ssm.conv_kernel": size["kernel"],
        "kda.head_dim": size["channel_head"],
        "attention.kv_lora_rank": size["latent"],
        "attention.key_length": size["latent"] + size["rope"],
        "attention.value_length": size["rope"],
        "attention.key_length_mla": size["plain"] + size["rope"],
        "attention.value_length_mla": size["value"],
        "rope.dimension_count": size["rope"],
        "expert_shared_count": config.size("num_shared_experts"),
        "expert_shared_feed_forward_length": size["shared"],
        "leading_dense_block_count": dense,
        "expert_gating_func": GATING["sigmoid"],
        "expert_group_count": config.size("n_group"),
        "expert_group_used_count": config.size("topk_group"),
        **({"attention.q_lora_rank": size["latent_query"]} if size["latent_query"] else {}),
    }
    return [
        *(Field.uint32(f"bailingmoe3.{key}", value) for key, value in numbers.items()),
        *expert_fields(decoder, experts),
        Field.int32s("bailingmoe3.attention.head_count_kv", [int(i in attending) for i in range(decoder.layers)]),
        Field.boolean("bailingmoe3.kda.safe_gate", True),
        Field.float32("bailingmoe3.kda.gate_lower_bound", config.number("kda_lower_bound", -5.0, least=-3e38)),
        Field.boolean("bailingmoe3.expert_weights_norm", True),
        Field.float32("bailingmoe3.expert_weights_scale", config.number("routed_scaling_factor")),
        *_limits(decoder),
    ]


def _limits(decoder: Decoder) -> list[Field]:
    """Where values within experts are cut off, by layer; 0 says nowhere."""
    found = []
    for key, name in LIMITS.items():
        given = decoder.config.values.get(key)
        if isinstance(given, list | tuple):
            cut = [float(v) if isinstance(v, int | float) else 0.0 for v in given[: decoder.layers]]
            found.append(Field.float32s(f"bailingmoe3.{name}", cut + [0.0] * (decoder.layers - len(cut))))
    return found


FAMILY = Family(
    name="bailingmoe3",
    title="Ling 3",
    classes=("BailingMoeV3ForCausalLM", "BailingHybridForCausalLM"),  # the second is transformers' own
    text=text,
    graphs="",
)
