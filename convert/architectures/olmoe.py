"""OLMoE: experts in every layer, a norm over all queries and one over all keys of a token."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, B, L
from convert.json_types import JsonObject

GRAPH = Graph("olmoe", default_epsilon=1e-5, square=True)
WIDE_NORMS: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_norm.weight", f"{B}.attn_q_norm.weight", ("q",)),
    (f"{L}.self_attn.k_norm.weight", f"{B}.attn_k_norm.weight", ("kv",)),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *WIDE_NORMS, *ROUTER, *EXPERTS)
FIXED = {"norm_topk_prob": False, "attention_bias": False, "tie_word_embeddings": False}
WHY = "llama.cpp's olmoe graph never normalizes, has no biases, and has a head of its own"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, WHY)
    if config.has("clip_qkv"):
        config.complain("clip_qkv", config.values["clip_qkv"], "null", "llama.cpp's olmoe graph clips nothing")
    if decoder.kv_heads != decoder.heads:
        why = "llama.cpp's olmoe graph has as many keys as queries"
        config.complain("num_key_value_heads", decoder.kv_heads, f"num_attention_heads, {decoder.heads}", why)
    experts = read_experts(decoder, ffn="intermediate_size")
    fields = expert_fields(decoder, experts, width=False)
    return decoder_spec(with_experts(decoder, experts), ROWS, fields)


FAMILY = Family(
    name="olmoe",
    title="OLMoE",
    classes=("OlmoeForCausalLM",),
    text=text,
)
