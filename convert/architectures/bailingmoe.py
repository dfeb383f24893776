"""Ling (BailingMoE): query, key and value in one matrix, experts weighed by a softmax and shared ones beside them."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, EXPERTS, NORMS, ROUTER, B, L, named
from convert.architectures._sparse import routing_fields
from convert.architectures.deepseek import plain_fields
from convert.architectures.deepseek2 import SHARED
from convert.architectures.llama import pairs_together
from convert.json_types import JsonObject

GRAPH = Graph("bailingmoe", default_epsilon=1e-6, rotary=Rotary(()))
WORDS = tuple(named(ENDS, ("embed_tokens", "word_embeddings")))
OUTPUT: TensorRule = (f"{L}.attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q"))
ROWS = (*WORDS, *NORMS, OUTPUT, *ROUTER, *EXPERTS, *SHARED)
FIXED = {
    "use_bias": False,
    "use_qkv_bias": False,
    "norm_head": False,
    "norm_softmax": False,
    "multi_gate": False,
    "first_k_dense_replace": 0,
    "moe_layer_freq": 1,
    "tie_word_embeddings": False,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's bailingmoe graph has no other")
    experts = read_experts(decoder)
    shared = config.size("num_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        *plain_fields(decoder, experts, 0, shared),
        *routing_fields(decoder, normalized=config.flag("norm_topk_prob")),
    ]
    tensors = [_query_key_value(decoder, i) for i in range(decoder.layers)]
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=tensors))


def _query_key_value(decoder: Decoder, layer: int) -> SourceTensor:
    """query_key_value of a layer; llama.cpp turns neighbours (see `pairs_together`)."""
    size = decoder.sizes
    queries, keys = size["q"], size["kv"]
    turn_q, turn_k = pairs_together(decoder.heads), pairs_together(decoder.kv_heads)
    outputs = (
        OutputTensor(f"blk.{layer}.attn_q.weight", (queries, decoder.hidden), lambda w: turn_q(w[:queries])),
        OutputTensor(
            f"blk.{layer}.attn_k.weight", (keys, decoder.hidden), lambda w: turn_k(w[queries : queries + keys])
        ),
        OutputTensor(f"blk.{layer}.attn_v.weight", (keys, decoder.hidden), lambda w: w[queries + keys :]),
    )
    name = f"model.layers.{layer}.attention.query_key_value.weight"
    return SourceTensor(name, (queries + 2 * keys, decoder.hidden), outputs)


FAMILY = Family(
    name="bailingmoe",
    title="Ling (BailingMoE)",
    classes=("BailingMoeForCausalLM",),
    text=text,
)
