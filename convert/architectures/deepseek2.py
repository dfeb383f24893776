"""DeepSeek-V2 and V3, GLM-4.7-Flash: attention through latent vectors (MLA), experts one shared, after dense layers.

llama.cpp's graph attends in the latent space: a token has one key and one value there, and what kv_b_proj would make of
them is multiplied into the queries (k_b, transposed) and taken from what comes out (v_b).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, OutputTensor, SourceTensor, TensorRule, expand
from convert.architectures._rows import ENDS, EXPERTS, MLP, NORMS, OUTPUT, ROUTER, B, L, named
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GRAPH = Graph("deepseek2", default_epsilon=1e-6, grouped=False)
GATING = {"softmax": 1, "sigmoid": 2}  # gguf, ExpertGatingFuncType
# what transformers takes where the config is silent; it always has the scoring_func of the class
V2 = {"scoring_func": "softmax", "first_k_dense_replace": 0, "routed_scaling_factor": 1.0, "n_shared_experts": 2}
V3 = {"scoring_func": "sigmoid", "first_k_dense_replace": 3, "routed_scaling_factor": 2.5, "n_shared_experts": 1}
V3 |= {"topk_method": "noaux_tc", "norm_topk_prob": True, "n_group": 8, "topk_group": 4}
GLM = {**V3, "first_k_dense_replace": 1, "routed_scaling_factor": 1.8, "n_group": 1, "topk_group": 1}
KINDS: Mapping[str, JsonObject] = {
    "DeepseekV2ForCausalLM": V2,
    "DeepseekV3ForCausalLM": V3,
    "Glm4MoeLiteForCausalLM": GLM,  # GLM-4.7-Flash
}
FIXED = {"attention_bias": False, "mlp_bias": False, "moe_layer_freq": 1, "rope_interleave": True}

LATENT: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.kv_a_proj_with_mqa.weight", f"{B}.attn_kv_a_mqa.weight", ("latent+rope", "hidden")),
    (f"{L}.self_attn.kv_a_layernorm.weight", f"{B}.attn_kv_a_norm.weight", ("latent",)),
    *((source, name, ("hidden", "values")) for source, name, *_ in OUTPUT),
)
QUERY: tuple[TensorRule, ...] = ((f"{L}.self_attn.q_proj.weight", f"{B}.attn_q.weight", ("queries", "hidden")),)
LATENT_QUERY: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_a_proj.weight", f"{B}.attn_q_a.weight", ("latent_query", "hidden")),
    (f"{L}.self_attn.q_a_layernorm.weight", f"{B}.attn_q_a_norm.weight", ("latent_query",)),
    (f"{L}.self_attn.q_b_proj.weight", f"{B}.attn_q_b.weight", ("queries", "latent_query")),
)
SHARED: tuple[TensorRule, ...] = tuple(
    (source, f"{name}".replace(".weight", "_shexp.weight"), tuple(d.replace("ffn", "shared") for d in dims))
    for source, name, dims, *_ in named(MLP, ("mlp.", "mlp.shared_experts."))
)
CORRECTION: TensorRule = (f"{L}.mlp.gate.e_score_correction_bias", f"{B}.exp_probs_b.bias", ("experts",))
LAYERS_OF_LITE = (26, 27)  # models where llama.cpp looks for no latent queries (models/deepseek2.cpp)
LATENT_EPSILON = 1e-6  # transformers, modeling_deepseek_v3.py, DeepseekV3RMSNorm: whatever rms_norm_eps is
EPSILON_NOTE = (
    f"the source's norms of latent vectors have {LATENT_EPSILON:g} for epsilon, llama.cpp's that of all others"
)
METHODS = {"softmax": ("greedy", "group_limited_greedy"), "sigmoid": ("noaux_tc",)}
BEST_OF_GROUP = (
    "the source rates a group of experts by its best one, llama.cpp by the sum of its two best: where that chooses "
    "other groups, answers differ"
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    return latent_text(values, KINDS[str(class_of(values))], GRAPH)


Own = Callable[[Decoder], tuple[Iterable[Field], Iterable[SourceTensor]]]
"""What a graph has besides these: fields and tensors."""


def latent_text(values: JsonObject, kind: JsonObject, graph: Graph, own: Own = lambda decoder: ((), ())) -> GraphSpec:
    """The language model with the defaults of `kind` for llama.cpp's `graph`.

    Raises PlanError with every problem of the config.
    """
    config = Config(values).with_defaults(**kind).spelled(head_dim="qk_rope_head_dim", num_experts="n_routed_experts")
    config, scaling = _yarn(config, graph.name)
    decoder = read_decoder(config, graph)
    config.require("num_key_value_heads", decoder.heads, "every head has its own rows in kv_b_proj")
    for key, wanted in {**FIXED, "scoring_func": kind["scoring_func"]}.items():
        config.require(key, wanted, f"llama.cpp's {graph.name} graph has no other for this class")
    experts = read_experts(decoder)
    decoder = _sized(with_experts(decoder, experts), config.size("n_shared_experts") * experts.ffn)
    if decoder.epsilon != LATENT_EPSILON:
        decoder = replace(decoder, notes=(*decoder.notes, EPSILON_NOTE))
    dense = config.size("first_k_dense_replace", most=decoder.layers, least=0)
    config.require("mlp_layer_types", ["dense"] * dense + ["sparse"] * (decoder.layers - dense))
    groups, notes = _groups(config, experts.count, kind["scoring_func"], graph.name)
    fields, tensors = own(decoder)
    rows = (*ENDS, *NORMS, *LATENT, *(LATENT_QUERY if decoder.more["latent_query"] else QUERY))
    moe = (*ROUTER, *EXPERTS, *SHARED, *((CORRECTION,) if kind["scoring_func"] == "sigmoid" else ()))
    whole = (
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(moe, decoder.sizes, layers=range(dense, decoder.layers)),
        *keys_and_values(decoder.sizes, decoder.heads, range(decoder.layers)),
        *tensors,
    )
    all_fields = [
        *_attention_fields(decoder),
        *scaling,
        *expert_fields(decoder, experts),
        *_expert_fields(decoder, dense, kind["scoring_func"]),
        *groups,
        *fields,
    ]
    return decoder_spec(decoder, rows, all_fields, extra=Extra(tensors=whole, left_out=drafts(decoder), notes=notes))


def _expert_fields(decoder: Decoder, dense: int, scoring: str) -> list[Field]:
    config, prefix = decoder.config, decoder.graph.name
    return [
        Field.uint32(f"{prefix}.leading_dense_block_count", dense),
        Field.uint32(f"{prefix}.expert_shared_count", config.size("n_shared_experts")),
        Field.float32(f"{prefix}.expert_weights_scale", config.number("routed_scaling_factor")),
        Field.uint32(f"{prefix}.expert_gating_func", GATING[scoring]),
    ]


def _sized(decoder: Decoder, shared: int) -> Decoder:
    """The decoder with the dimensions of latent attention and of the shared expert."""
    config, heads = decoder.config, decoder.heads
    plain, values = config.size("qk_nope_head_dim"), config.size("v_head_dim")
    latent_query = config.size("q_lora_rank") if config.has("q_lora_rank") else 0
    lite = decoder.graph is GRAPH and decoder.layers in LAYERS_OF_LITE
    if latent_query and lite:
        config.complain("q_lora_rank", latent_query, "null", f"llama.cpp knows none with {decoder.layers} layers")
    return decoder.having(
        plain=plain,
        rope=decoder.head_dim,
        value=values,
        queries=heads * (plain + decoder.head_dim),
        values=heads * values,
        latent=config.size("kv_lora_rank"),
        latent_query=latent_query,
        shared=shared,
    )


def _attention_fields(decoder: Decoder) -> list[Field]:
    size = decoder.sizes
    latent_query = size["latent_query"]
    numbers = {
        "vocab_size": decoder.vocab,
        "attention.head_count_kv": 1,  # in the latent space all heads share one
        "attention.kv_lora_rank": size["latent"],
        "attention.key_length": size["latent"] + size["rope"],
        "attention.value_length": size["latent"],
        "attention.key_length_mla": size["plain"] + size["rope"],
        "attention.value_length_mla": size["value"],
        "rope.dimension_count": size["rope"],
    }
    if latent_query or decoder.graph is not GRAPH or decoder.layers not in LAYERS_OF_LITE:
        numbers["attention.q_lora_rank"] = latent_query  # 0 says that there is none
    return [Field.uint32(f"{decoder.graph.name}.{key}", value) for key, value in numbers.items()]


def keys_and_values(
    size: Mapping[str, int], heads: int, layers: Iterable[int], attention: str = "self_attn"
) -> Iterator[SourceTensor]:
    """kv_b_proj of these layers: (heads, plain part of a key + value, latent), as rows."""
    plain, value, latent = size["plain"], size["value"], size["latent"]

    def heads_apart(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(heads, plain + value, latent)

    def key(weight: np.ndarray) -> np.ndarray:
        return heads_apart(weight)[:, :plain].swapaxes(1, 2)

    def values(weight: np.ndarray) -> np.ndarray:
        return heads_apart(weight)[:, plain:]

    for i in layers:
        outputs = (
            OutputTensor(f"blk.{i}.attn_k_b.weight", (heads, latent, plain), key),
            OutputTensor(f"blk.{i}.attn_v_b.weight", (heads, value, latent), values),
        )
        yield SourceTensor(f"model.layers.{i}.{attention}.kv_b_proj.weight", (heads * (plain + value), latent), outputs)


def _groups(config: Config, experts: int, scoring: str, prefix: str) -> tuple[list[Field], list[str]]:
    """How experts are chosen: fields, and a note where llama.cpp rates groups of them otherwise."""
    method = config.word("topk_method", "greedy", METHODS[scoring])
    best = method == "group_limited_greedy"
    if scoring == "softmax":
        config.require("norm_topk_prob", False, "transformers' DeepSeek-V2 never normalizes")
    fields = [Field.boolean(f"{prefix}.expert_weights_norm", True)] if config.flag("norm_topk_prob") else []
    if not config.has("n_group"):
        return fields, []
    groups = config.size("n_group", most=experts)
    used = config.size("topk_group", groups, most=groups)
    if experts % groups or (groups > 1 and experts < 2 * groups):
        config.complain("n_group", groups, f"a divisor of {config.key('num_experts')}, {experts}, of two or more each")
    if groups > 1 and (used == groups or method == "greedy"):
        return fields, []  # no limit
    fields.append(Field.uint32(f"{prefix}.expert_group_count", groups))
    fields.append(Field.uint32(f"{prefix}.expert_group_used_count", used))
    return fields, [BEST_OF_GROUP] if best and groups > 1 else []


def _yarn(config: Config, prefix: str) -> tuple[Config, list[Field]]:
    """The config without what only these models' YaRN has, and the field for that.

    transformers scales scores by (1 + 0.1 mscale_all_dim ln factor)², and the rotary part alone by mscale where it
    differs; llama.cpp's graph can do the first (models/deepseek2.cpp).
    """
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    values = config.values.get(key)
    if not isinstance(values, Mapping) or "yarn" not in (values.get("type"), values.get("rope_type")):
        return config, []
    rope = config.sub(key)
    scale = rope.number("mscale_all_dim")
    for name, wanted in (("mscale", scale), ("attention_factor", 1.0)):
        rope.require(name, wanted, f"llama.cpp's {prefix} graph scales the rotary part as the rest")
    if not rope.has("mscale") and not rope.has("attention_factor"):
        rope.complain("mscale", None, f"{scale:g}", f"llama.cpp's {prefix} graph scales the rotary part as the rest")
    rest = {
        name: value for name, value in values.items() if name not in ("mscale", "mscale_all_dim", "attention_factor")
    }
    factor = Field.float32(f"{prefix}.rope.scaling.yarn_log_multiplier", 0.1 * scale)
    return Config({**config.values, key: rest}, config.where, config.problems, config.spellings), [factor]


def drafts(decoder: Decoder) -> Iterator[LeftOut]:
    """Layers behind the last one, which guess tokens further ahead."""
    count = decoder.config.size("num_nextn_predict_layers", 1, MAX_LAYERS, least=0)
    for i in range(decoder.layers, decoder.layers + count):
        yield LeftOut("", "a layer that predicts tokens further ahead", prefix=f"model.layers.{i}.")


FAMILY = Family(
    name="deepseek2",
    title="DeepSeek-V2 and V3, GLM-4.7-Flash",
    classes=tuple(KINDS),
    text=text,
)
