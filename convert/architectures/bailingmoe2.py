"""Ling 2.0 and Sarvam-MoE: norms of queries and keys, groups of experts chosen by sigmoids, behind dense layers."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import EXPERTS, MLP, NORMS, QK_NORM, ROUTER, B, L, named
from convert.architectures._sparse import dense_layers, group_fields, routing_fields
from convert.architectures.bailingmoe import OUTPUT, WORDS
from convert.architectures.deepseek2 import SHARED, drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

SARVAM = "SarvamMoEForCausalLM"
GRAPH = Graph("bailingmoe2", default_epsilon=1e-6, rotary=Rotary(partial=1.0), square=True)
QK = (("self_attn", "attention"), ("q_norm", "query_layernorm"), ("k_norm", "key_layernorm"))
ROWS: tuple[TensorRule, ...] = (
    *WORDS,
    *NORMS,
    (f"{L}.attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    OUTPUT,
    *named(QK_NORM, *QK),
)
CORRECTION: TensorRule = (f"{L}.mlp.gate.expert_bias", f"{B}.exp_probs_b.bias", ("experts",), "correction")
MOE = (*ROUTER, CORRECTION, *EXPERTS, *SHARED)
FIXED = {
    "use_bias": False,
    "use_qkv_bias": False,
    "use_qk_norm": True,
    "moe_router_enable_expert_bias": True,
    "score_function": "sigmoid",
    "norm_head": False,
    "tie_word_embeddings": False,
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    sarvam = str(class_of(values)).endswith(SARVAM)
    config = Config(values).with_defaults(partial_rotary_factor=1.0 if sarvam else 0.5)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's bailingmoe2 graph has no other")
    experts = read_experts(decoder)
    config.require("moe_shared_expert_intermediate_size", experts.ffn, "a shared expert is as wide as the others")
    shared = config.size("num_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers)
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(
            decoder,
            "sigmoid",
            scale=config.number("routed_scaling_factor"),
            normalized=config.flag("norm_topk_prob"),
        ),
        Field.uint32("bailingmoe2.vocab_size", decoder.vocab),
        Field.uint32("bailingmoe2.leading_dense_block_count", dense),
        Field.uint32("bailingmoe2.expert_shared_count", shared),
        Field.uint32("bailingmoe2.expert_shared_feed_forward_length", experts.ffn),  # times their count in llama.cpp
    ]
    transforms = {"correction": Transform(change=_without_mean)} if sarvam else {}
    tensors = (
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(MOE, decoder.sizes, transforms, range(dense, decoder.layers)),
    )
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=tensors, left_out=drafts(decoder)))


def _without_mean(bias: np.ndarray) -> np.ndarray:
    """Sarvam's own code takes the mean off the bias before it chooses."""
    mean = bias.mean(dtype=np.float32)
    centred: np.ndarray = bias - mean
    return centred


FAMILY = Family(
    name="bailingmoe2",
    title="Ling 2.0, Sarvam-MoE",
    classes=("BailingMoeV2ForCausalLM", SARVAM, f"modeling_sarvam_moe.{SARVAM}"),
    text=text,
)
