"""MiMo-V2: values narrower than keys and scaled, windows with sinks and twice the keys, experts chosen by sigmoids."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, expand
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, MLP, NORMS, ROUTER, B, L
from convert.architectures._sparse import group_fields, routing_fields
from convert.architectures._window import FULL, SLIDING
from convert.architectures.deepseek2 import CORRECTION
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("mimo2", default_epsilon=1e-5, rotary=Rotary((), theta=5e6, partial=0.334), windowed=True)
SHAPES = {
    "attn_q": ("q", "hidden"),
    "attn_k": ("k", "hidden"),
    "attn_v": ("v", "hidden"),
    "attn_output": ("hidden", "o"),
}
ROWS: tuple[TensorRule, ...] = tuple(
    (source, name, SHAPES[str(name).removeprefix(f"{B}.").removesuffix(".weight")]) for source, name, *_ in ATTENTION
)
SINKS: TensorRule = (f"{L}.self_attn.attention_sink_bias", f"{B}.attn_sinks.weight", ("heads",))
MOE = (*ROUTER, CORRECTION, *EXPERTS)
FIXED = {
    "attention_bias": False,
    "add_swa_attention_sink_bias": True,
    "add_full_attention_sink_bias": False,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "tie_word_embeddings": False,
}
DRAFTS = LeftOut("", "layers that predict tokens further ahead", prefix="model.mtp.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=192, v_head_dim=128)
    config = config.spelled(num_experts="n_routed_experts", rms_norm_eps="layernorm_epsilon")
    decoder = read_decoder(config, GRAPH)
    _check(decoder)
    experts = read_experts(decoder)
    decoder = with_experts(decoder, experts).having(heads=decoder.heads)
    sliding = _sliding(decoder)
    scale = config.number("routed_scaling_factor", 1.0)
    fields = [
        Field.int32s("mimo2.attention.head_count_kv", [decoder.kv_heads * (2 if s else 1) for s in sliding]),
        Field.uint32("mimo2.attention.key_length", decoder.head_dim),
        Field.uint32("mimo2.attention.value_length", config.size("v_head_dim")),
        Field.float32("mimo2.attention.value_scale", config.number("attention_value_scale", 1.0)),
        Field.uint32("mimo2.attention.sliding_window", _window(config)),
        Field.int32s("mimo2.attention.sliding_window_pattern", map(int, sliding)),
        Field.float32("mimo2.rope.freq_base_swa", _theta_of_windows(config)),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(decoder, "sigmoid", scale=scale if scale != 1.0 else None),
    ]
    extra = Extra(tensors=_tensors(decoder, sliding), left_out=[DRAFTS])
    return decoder_spec(decoder, (*ENDS, *NORMS), fields, extra=extra)


def _check(decoder: Decoder) -> None:
    config = decoder.config
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's mimo2 graph has no other")
    for key, wanted in (
        ("swa_head_dim", decoder.head_dim),
        ("swa_v_head_dim", config.size("v_head_dim")),
        ("swa_num_attention_heads", decoder.heads),
        ("swa_num_key_value_heads", 2 * decoder.kv_heads),
    ):
        config.require(key, wanted, "transformers knows no other")


def _sliding(decoder: Decoder) -> tuple[bool, ...]:
    """Which layers have a window."""
    config, layers = decoder.config, decoder.layers
    if kinds := config.words("layer_types", layers, (SLIDING, FULL)):
        return tuple(kind == SLIDING for kind in kinds)
    if config.has("hybrid_layer_pattern"):
        pattern = config.sizes("hybrid_layer_pattern", most=1)
        if len(pattern) != layers:
            config.complain("hybrid_layer_pattern", pattern, f"{layers} numbers, one for a layer")
        return tuple(map(bool, pattern[:layers]))
    return tuple(i > 0 and (i + 1) % 6 > 0 for i in range(layers))


def _window(config: Config) -> int:
    """Tokens that a layer with a window sees; sliding_window_size does not count the token itself."""
    if config.has("sliding_window_size"):
        return config.size("sliding_window_size", most=MAX_CONTEXT - 1) + 1
    return config.size("sliding_window", 129, MAX_CONTEXT)


def _theta_of_windows(config: Config) -> float:
    return sliding_theta(config.spelled(rope_local_base_freq="swa_rope_theta"), 10000.0)


def _dense(decoder: Decoder) -> list[int]:
    """The layers without experts; llama.cpp tells them by their tensors."""
    config, layers = decoder.config, decoder.layers
    if kinds := config.words("mlp_layer_types", layers, ("dense", "sparse")):
        return [i for i, kind in enumerate(kinds) if kind == "dense"]
    if config.has("moe_layer_freq"):
        return [i for i, sparse in enumerate(config.sizes("moe_layer_freq", most=1)[:layers]) if not sparse]
    return [0]


def _tensors(decoder: Decoder, sliding: tuple[bool, ...]) -> list[SourceTensor]:
    size, width = decoder.sizes, decoder.config.size("v_head_dim")
    dense = _dense(decoder)
    made: list[SourceTensor] = []
    for windowed in (False, True):
        keys = decoder.kv_heads * (2 if windowed else 1)
        sizes = {**size, "k": keys * decoder.head_dim, "v": keys * width, "o": decoder.heads * width}
        rows = (*ROWS, SINKS) if windowed else ROWS
        made += expand(rows, sizes, layers=[i for i, s in enumerate(sliding) if s == windowed])
    sparse = [i for i in range(decoder.layers) if i not in dense]
    return [*made, *expand(MLP, size, layers=dense), *expand(MOE, size, layers=sparse)]


FAMILY = Family(
    name="mimo2",
    title="MiMo-V2-Flash",
    classes=("MiMoV2FlashForCausalLM",),
    text=text,
)
