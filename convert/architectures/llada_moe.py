"""LLaDA-MoE: a diffusion model with experts; every token sees all others."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures.qwen3_moe import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("llada-moe", default_epsilon=1e-5, rotary=Rotary(()), square=True)
FIXED = {
    "attention_bias": False,
    "clip_qkv": None,
    "norm_topk_prob": False,
    "qk_layernorm": True,
    "moe_layer_freq": None,
    "shared_expert_intermediate_size": None,
    "tie_word_embeddings": False,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config.spelled(intermediate_size="dense_intermediate_size"), GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's llada-moe graph has no other")
    experts = read_experts(decoder, ffn="expert_intermediate_size")
    fields = [
        *expert_fields(decoder, experts),
        Field.boolean("llada-moe.attention.causal", False),
        Field.boolean("diffusion.shift_logits", False),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields)


FAMILY = Family(
    name="llada_moe",
    title="LLaDA-MoE",
    classes=("LLaDAMoEModelLM", "LLaDAMoEModel"),
    text=text,
)
