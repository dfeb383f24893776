"""Maple: positions within windows only, norms of queries and keys, experts whose SwiGLU is clamped."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._window import FULL, SLIDING
from convert.architectures.qwen3_moe import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("maple", default_epsilon=1e-6, rotary=Rotary((), partial=1.0), windowed=True)
FIXED = {
    "attention_bias": False,
    "nope_on_global_attention": True,
    "norm_topk_prob": True,
    "num_shared_experts": 0,
    "tie_word_embeddings": False,
}
CLAMP = 7.0  # a constant of the published code


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's maple graph has no other")
    experts = read_experts(decoder)
    kinds = config.words("layer_types", decoder.layers, (SLIDING, FULL))
    if not kinds:
        config.complain("layer_types", config.values.get("layer_types"), f"{decoder.layers} kinds of layers")
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        Field.uint32("maple.vocab_size", decoder.vocab),
        Field.uint32("maple.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT)),
        Field.booleans("maple.attention.sliding_window_pattern", [kind == SLIDING for kind in kinds]),
        Field.float32s("maple.swiglu_clamp_exp", [CLAMP] * decoder.layers),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields)


FAMILY = Family(
    name="maple",
    title="Maple",
    classes=("MapleForCausalLM",),
    text=text,
)
