"""dots 3 Note: latent attention of two geometries, one within windows and one to the tokens that an indexer chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, SourceTensor, TensorRule, Transform, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, EXPERTS, NORMS, ROUTER, B, L
from convert.architectures._sparse import dense_layers, group_fields, routing_fields, sparse_layers
from convert.architectures._window import SLIDING
from convert.architectures.deepseek2 import CORRECTION, LATENT, LATENT_QUERY, SHARED, keys_and_values
from convert.architectures.deepseek32 import INDEXER, indexer_sizes
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("dots3note", default_epsilon=1e-5, grouped=False, rotary=Rotary((), theta=8e7))
PREFIX = f"{GRAPH.name}.attention"
SCALED = {"attn_q_a_norm": "queries", "attn_kv_a_norm": "keys and values"}
ROWS: tuple[TensorRule, ...] = (
    *(
        (*row[:3], next((word for name, word in SCALED.items() if name in row[1]), ""))
        for row in (*LATENT, *LATENT_QUERY)
    ),
    (f"{L}.self_attn.k_rope_only_layernorm.weight", f"{B}.attn_k_norm.weight", ("rope",)),
    (f"{L}.self_attn.g_proj.weight", f"{B}.attn_gate.weight", ("heads", "hidden")),
)
MOE = (*ROUTER, CORRECTION, *EXPERTS, *SHARED)
FIXED = {
    "attention_bias": False,
    "apply_mla_qkv_lora_rescale": True,
    "attention_gate_type": "headwise",
    "swa_attention_gate_type": "headwise",
    "k_rope_only_layernorm": True,
    "moe_layer_freq": 1,
    "n_group": 1,
    "topk_group": 1,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "use_dsa": True,
}
WIDTHS = ("num_attention_heads", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
WINDOWED = {
    "num_attention_heads": 64,
    "kv_lora_rank": 1024,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
WINDOWED_THETA = 50000.0
OTHERS = tuple(
    LeftOut("", why, prefix=prefix)
    for prefix, why in (
        ("vision_encoder.", "the tower; this file holds the language model"),
        ("audio_encoder.", "the ears; this file holds the language model"),
        ("model.mtp.", "layers that predict tokens further ahead"),
    )
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if isinstance(values.get("text_config"), Mapping):
        config = config.merged("text_config")
    swa = {f"swa_{key}": value for key, value in WINDOWED.items()}
    config = config.with_defaults(**swa, n_shared_experts=1, norm_topk_prob=True, routed_scaling_factor=1.0)
    config = config.spelled(head_dim="qk_rope_head_dim", num_experts="n_routed_experts")
    decoder = read_decoder(_plain_positions(config), GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's dots3note graph, or transformers', has no other")
    experts = read_experts(decoder)
    config.require("moe_shared_expert_intermediate_size", experts.ffn, "a shared expert is as wide as the others")
    shared = config.size("n_shared_experts")
    decoder = with_experts(decoder, experts).having(
        shared=shared * experts.ffn, latent_query=config.size("q_lora_rank", 1024), rope=decoder.head_dim
    )
    config.require("swa_q_lora_rank", decoder.more["latent_query"], "llama.cpp has one for all layers")
    config.require("swa_qk_rope_head_dim", decoder.head_dim, "llama.cpp has one for all layers")
    sliding = _sliding(decoder)
    if not any(sliding):
        config.complain("layer_types", "without a window", "some layers with one", "llama.cpp's graph wants both kinds")
    dense = dense_layers(config, decoder.layers, default=1)
    fields = [
        *_attention_fields(decoder, sliding),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(
            decoder,
            "sigmoid",
            scale=config.number("routed_scaling_factor"),
            normalized=config.flag("norm_topk_prob") or None,
        ),
        Field.uint32("dots3note.leading_dense_block_count", dense),
        Field.uint32("dots3note.expert_shared_count", shared),
    ]
    tensors = (*_attention(decoder, sliding), *sparse_layers(decoder, MOE, dense))
    return decoder_spec(decoder, (*ENDS, *NORMS), fields, extra=Extra(tensors=tensors, left_out=OTHERS))


def _plain_positions(config: Config) -> Config:
    """The config with the base of the frequencies in layers without a window, which may be under another name."""
    both = config.sub("rope_parameters")
    for kind in ("indexed_attention", "full_attention"):
        if both.has(kind):
            theta = both.sub(kind).number("rope_theta", 8e7)
            made = {**config.values, "rope_parameters": None, "rope_theta": theta}
            return Config(made, config.where, config.problems, config.spellings)
    return config


def _theta_of_windows(config: Config) -> float:
    both = config.sub("rope_parameters")
    own = both.sub(SLIDING) if both.has(SLIDING) else config.spelled(rope_theta="swa_rope_theta")
    return own.number("rope_theta", WINDOWED_THETA)


def _sliding(decoder: Decoder) -> list[bool]:
    """Which layers have a window: where the config is silent, all but the first two and each fourth."""
    config, layers = decoder.config, decoder.layers
    kinds = config.words("layer_types", layers, (SLIDING, "full_attention", "indexed_attention"))
    return [kind == SLIDING for kind in kinds] or [i >= 2 and i % 4 != 1 for i in range(layers)]


def _sizes(decoder: Decoder, windowed: bool) -> dict[str, int]:
    """The dimensions of attention in layers with a window, or without."""
    start = "swa_" if windowed else ""
    heads, latent, plain, rope, value = (decoder.config.size(f"{start}{key}") for key in WIDTHS)
    return {
        **decoder.sizes,
        "heads": heads,
        "latent": latent,
        "plain": plain,
        "rope": rope,
        "value": value,
        "queries": heads * (plain + rope),
        "values": heads * value,
    }


def _attention_fields(decoder: Decoder, sliding: Sequence[bool]) -> list[Field]:
    config = decoder.config
    whole, windowed = _sizes(decoder, False), _sizes(decoder, True)
    numbers = {"head_count_kv": 1, "q_lora_rank": whole["latent_query"]}
    for size, end in ((whole, ""), (windowed, "_swa")):
        numbers[f"kv_lora_rank{end}"] = size["latent"]
        numbers[f"key_length{end}"] = size["latent"] + size["rope"]
        numbers[f"value_length{end}"] = size["latent"]
        numbers[f"key_length_mla{end}"] = size["plain"] + size["rope"]
        numbers[f"value_length_mla{end}"] = size["value"]
    window = "sliding_window" if config.has("sliding_window") else "sliding_window_size"
    _, fields = indexer_sizes(decoder)
    return [
        Field.int32s(f"{PREFIX}.head_count", [(windowed if one else whole)["heads"] for one in sliding]),
        *(Field.uint32(f"{PREFIX}.{name}", value) for name, value in numbers.items()),
        Field.uint32(f"{PREFIX}.sliding_window", config.size(window, 512, MAX_CONTEXT)),
        Field.booleans(f"{PREFIX}.sliding_window_pattern", sliding),
        *fields,
        Field.booleans(f"{PREFIX}.indexer.types", [not one for one in sliding]),
        Field.float32("dots3note.rope.freq_base_swa", _theta_of_windows(config)),
        Field.uint32("dots3note.rope.dimension_count", whole["rope"]),
        Field.uint32("dots3note.vocab_size", decoder.vocab),
    ]


def _attention(decoder: Decoder, sliding: Sequence[bool]) -> Iterator[SourceTensor]:
    """What the source multiplies latent vectors by is in the norms in front: sqrt(hidden size / their size)."""
    index, _ = indexer_sizes(decoder)
    for windowed in (False, True):
        size = _sizes(decoder, windowed)
        layers = [i for i, one in enumerate(sliding) if one == windowed]
        transforms = {
            "queries": _times(math.sqrt(decoder.hidden / size["latent_query"])),
            "keys and values": _times(math.sqrt(decoder.hidden / size["latent"])),
        }
        yield from expand(ROWS, size, transforms, layers)
        yield from keys_and_values(size, size["heads"], layers)
        if not windowed:
            yield from expand(INDEXER, {**size, **index}, layers=layers)


def _times(factor: float) -> Transform:
    def change(values: np.ndarray) -> np.ndarray:
        return values * np.float32(factor)

    return Transform(change=change)


FAMILY = Family(
    name="dots3_note",
    title="dots 3 Note",
    classes=("Dots3NoteForCausalLM", "Dots3NoteForConditionalGeneration", "Dots3NoteTextForCausalLM"),
    text=text,
)
