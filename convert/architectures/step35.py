"""Step 3.5: windows with more heads than elsewhere, a gate for each head, experts chosen by sigmoids, clamped ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, LeftOut, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QK_NORM, B, L
from convert.architectures._sparse import routing_fields
from convert.architectures._window import FULL, SLIDING
from convert.architectures.deepseek2 import drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("step35", default_epsilon=1e-5, rotary=Rotary(()), windowed=True)
GATE: TensorRule = (f"{L}.self_attn.g_proj.weight", f"{B}.attn_gate.weight", ("heads", "hidden"))
MOE: tuple[TensorRule, ...] = (
    (f"{L}.moe.gate.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (f"{L}.moe.router_bias", f"{B}.exp_probs_b.bias", ("experts",)),
    (f"{L}.moe.gate_proj.weight", f"{B}.ffn_gate_exps.weight", ("experts", "expert_ffn", "hidden")),
    (f"{L}.moe.up_proj.weight", f"{B}.ffn_up_exps.weight", ("experts", "expert_ffn", "hidden")),
    (f"{L}.moe.down_proj.weight", f"{B}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
    (f"{L}.share_expert.gate_proj.weight", f"{B}.ffn_gate_shexp.weight", ("shared", "hidden")),
    (f"{L}.share_expert.up_proj.weight", f"{B}.ffn_up_shexp.weight", ("shared", "hidden")),
    (f"{L}.share_expert.down_proj.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "shared")),
)
FIXED = {
    "attention_bias": False,
    "mlp_bias": False,
    "use_head_wise_attn_gate": True,
    "use_qk_norm": True,
    "use_moe_router_bias": True,
    "moe_router_activation": "sigmoid",
    "norm_expert_weight": True,
    "tie_word_embeddings": False,
}
TURNING = {FULL: 0.5, SLIDING: 1.0}  # which part of a head turns, in llama.cpp (models/step35.cpp)
LIMITS = {"swiglu_limits": "swiglu_clamp_exp", "swiglu_limits_shared": "swiglu_clamp_shexp"}
SEEING = "llama.cpp's file has the language model only"
LEFT_OUT = (
    LeftOut("", SEEING, prefix="vision_model."),
    LeftOut("", SEEING, prefix="vit_large_projector."),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if isinstance(values.get("text_config"), Mapping) and "num_hidden_layers" not in values:
        config = config.merged("text_config")
    config = config.spelled(
        num_key_value_heads="num_attention_groups",
        num_experts="moe_num_experts",
        num_experts_per_tok="moe_top_k",
    )
    kinds = _kinds(config)
    thetas = _thetas(config, kinds)
    plain = Config({**config.values, "rope_theta": thetas[FULL], "rope_parameters": None, "rope_scaling": None})
    decoder = read_decoder(Config(plain.values, config.where, config.problems, config.spellings), GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's step35 graph has no other")
    config.require("query_pre_attn_scalar", decoder.head_dim, "llama.cpp scales by the size of a head")
    experts = read_experts(decoder)
    decoder = with_experts(decoder, experts).having(shared=config.size("share_expert_dim"))
    heads = {FULL: decoder.heads, SLIDING: _heads_in_windows(decoder)}
    fields = [
        Field.int32s("step35.attention.head_count", [heads[kind] for kind in kinds]),
        Field.int32s("step35.attention.head_count_kv", [decoder.kv_heads] * decoder.layers),
        *head_size_fields(decoder),
        Field.uint32("step35.attention.sliding_window", config.size("sliding_window", 512, MAX_CONTEXT)),
        Field.booleans("step35.attention.sliding_window_pattern", [kind == SLIDING for kind in kinds]),
        Field.float32("step35.rope.freq_base_swa", thetas[SLIDING]),
        *_expert_fields(decoder),
        *expert_fields(decoder, experts),
    ]
    tensors = _tensors(decoder, kinds, heads)
    extra = Extra(tensors=tensors, left_out=[*LEFT_OUT, *drafts(decoder)])
    return decoder_spec(decoder, (*ENDS, *NORMS, *QK_NORM), fields, {"norm": PLUS_ONE}, extra)


def _per_layer(config: Config, key: str, layers: int) -> list[object]:
    """A list of the config with an entry for each layer; those of layers that predict ahead are behind."""
    listed = config.values.get(key)
    if not isinstance(listed, list) or len(listed) < layers:
        config.complain(key, listed, f"a list of {layers} entries, one for a layer")
        return []
    return listed[:layers]


def _kinds(config: Config) -> list[str]:
    """The kind of each layer."""
    layers = config.size("num_hidden_layers", most=MAX_LAYERS)
    if not config.has("layer_types"):
        return [FULL] * layers
    kinds = _per_layer(config, "layer_types", layers)
    if any(kind not in TURNING for kind in kinds):
        config.complain("layer_types", kinds, f"{FULL!r} or {SLIDING!r} of every layer")
    return [SLIDING if kind == SLIDING else FULL for kind in kinds] or [FULL] * layers


def _thetas(config: Config, kinds: Sequence[str]) -> dict[str, float]:
    """The base of the frequencies in each kind of layer; what part of a head turns is checked."""
    found = dict.fromkeys(TURNING, 10000.0)
    both = config.sub("rope_parameters")
    if config.has("rope_scaling"):
        scaling = config.sub("rope_scaling")
        scaling.require("rope_type", "default", "the converter knows no scaled positions of Step 3.5")
    shares = _per_layer(config, "partial_rotary_factors", len(kinds)) if config.has("partial_rotary_factors") else []
    listed = config.values.get("rope_theta")
    for layer, kind in enumerate(kinds):
        if both.has(kind):
            own = both.sub(kind)
            own.word("rope_type", "default", ("default",), "the converter knows no scaled positions of Step 3.5")
            found[kind] = own.number("rope_theta", 10000.0)
            share: object = own.number("partial_rotary_factor", 1.0)
        else:
            theta = listed[layer] if isinstance(listed, list) and layer < len(listed) else listed
            found[kind] = Config({"rope_theta": theta}, config.where, config.problems).number("rope_theta", 10000.0)
            share = shares[layer] if shares else 1.0
        if share != TURNING[kind]:
            config.complain("partial_rotary_factors", share, f"{TURNING[kind]:g} in layers of {kind}")
            break
    return found


def _heads_in_windows(decoder: Decoder) -> int:
    config = decoder.config
    if config.has("num_sliding_attention_heads"):
        return config.size("num_sliding_attention_heads")
    other = config.sub("attention_other_setting")
    other.require("head_dim", decoder.head_dim, "llama.cpp has one size of heads")
    other.require("num_attention_groups", decoder.kv_heads, "transformers has as many keys in all layers")
    return other.size("num_attention_heads", decoder.heads)


def _sparse(decoder: Decoder) -> list[int]:
    """The layers with experts; llama.cpp tells them by their tensors."""
    config, layers = decoder.config, decoder.layers
    if config.has("mlp_layer_types"):
        return [i for i, kind in enumerate(_per_layer(config, "mlp_layer_types", layers)) if kind == "sparse"]
    listed = config.values.get("moe_layers_enum")
    if listed is None:
        return list(range(min(3, layers), layers))
    texts = listed.split(",") if isinstance(listed, str) else listed if isinstance(listed, list) else []
    numbers = [str(text).strip() for text in texts]
    if not numbers or not all(number.isdigit() for number in numbers):
        config.complain("moe_layers_enum", listed, 'numbers of layers, as "3,4,5"')
        return []
    return sorted({int(number) for number in numbers if int(number) < layers})


def _expert_fields(decoder: Decoder) -> list[Field]:
    config = decoder.config
    scale = config.number("moe_router_scaling_factor", 1.0)
    sparse = _sparse(decoder)
    fields = [
        *routing_fields(decoder, "sigmoid", scale=scale, normalized=True),
        Field.uint32("step35.expert_shared_feed_forward_length", decoder.sizes["shared"]),
        Field.uint32("step35.leading_dense_block_count", sparse[0] if sparse else 0),
        Field.uint32("step35.moe_every_n_layers", 1),
    ]
    for key, name in LIMITS.items():
        if config.has(key):
            limits = [0.0 if limit is None else limit for limit in _per_layer(config, key, decoder.layers)]
            values = Config({key: limits}, config.where, config.problems).numbers(key, decoder.layers)
            fields.append(Field.float32s(f"step35.{name}", values))
    return fields


def _tensors(decoder: Decoder, kinds: Sequence[str], heads: Mapping[str, int]) -> list[SourceTensor]:
    size, sparse = decoder.sizes, _sparse(decoder)
    made: list[SourceTensor] = []
    for kind, count in heads.items():
        sizes = {**size, "heads": count, "q": count * decoder.head_dim}
        made += expand((*ATTENTION, GATE), sizes, layers=[i for i, k in enumerate(kinds) if k == kind])
    dense = [i for i in range(decoder.layers) if i not in sparse]
    return [*made, *expand(MLP, size, layers=dense), *expand(MOE, size, layers=sparse)]


FAMILY = Family(
    name="step35",
    title="Step 3.5",
    classes=("Step3p5ForCausalLM", "Step3p7ForConditionalGeneration"),
    text=text,
)
