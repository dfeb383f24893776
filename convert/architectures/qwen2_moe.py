"""Qwen2-MoE: Qwen2 with experts in every layer, and beside them one that every token passes, behind a gate."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QKV, ROUTER, B, L, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("qwen2moe", square=True)
SHARED: tuple[TensorRule, ...] = (
    (f"{L}.mlp.shared_expert_gate.weight", f"{B}.ffn_gate_inp_shexp.weight", ("one", "hidden")),
    (f"{L}.mlp.shared_expert.gate_proj.weight", f"{B}.ffn_gate_shexp.weight", ("shared", "hidden")),
    (f"{L}.mlp.shared_expert.up_proj.weight", f"{B}.ffn_up_shexp.weight", ("shared", "hidden")),
    (f"{L}.mlp.shared_expert.down_proj.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "shared")),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *ROUTER, *EXPERTS, *SHARED)
FIXED = {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": [], "tie_word_embeddings": False}
WHY = "llama.cpp's qwen2moe graph has experts in every layer, never normalizes, and has a head of its own"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # use_sliding_window: transformers' Qwen2MoeConfig has a window only where it is asked for
    config = Config(values).with_defaults(use_sliding_window=False).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, WHY)
    shared = config.size("shared_expert_intermediate_size")
    experts = read_experts(decoder)
    fields = [
        *expert_fields(decoder, experts),
        Field.uint32("qwen2moe.expert_shared_feed_forward_length", shared),
    ]
    rows = (*ROWS, *biases(QKV)) if config.flag("qkv_bias", True) else ROWS
    return decoder_spec(with_experts(decoder, experts).having(shared=shared, one=1), rows, fields)


FAMILY = Family(
    name="qwen2_moe",
    title="Qwen2-MoE",
    classes=("Qwen2MoeForCausalLM",),
    text=text,
)
