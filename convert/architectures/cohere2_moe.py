"""North (Cohere2-MoE): Command-R7B's layers with experts, averaged with shared ones, behind some dense layers."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import Experts, expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER
from convert.architectures._sparse import dense_layers, routing_fields, sparse_layers
from convert.architectures._window import FULL, SLIDING
from convert.architectures.deepseek2 import SHARED, drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "cohere2moe",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    rotary=Rotary(()),
    windowed=True,
    tied=True,
)
RMS = replace(GRAPH, layer_norm=False, epsilon="rms_norm_eps", default_epsilon=None)
ROWS = (*ENDS, NORMS[0], *ATTENTION)
MOE = (*ROUTER, *EXPERTS)
FIXED = {
    "attention_bias": False,
    "prefix_dense_sliding_window_pattern": 1,
    "shared_expert_combination_strategy": "average",
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128, sliding_window=4096, num_shared_experts=0)
    decoder = read_decoder(config, RMS if config.has("rms_norm_eps") else GRAPH)
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's cohere2moe graph has no other")
    experts = read_experts(decoder, ffn="intermediate_size")
    shared = config.size("num_shared_experts", least=0)
    if config.has("prefix_dense_intermediate_size"):
        decoder = replace(decoder, ffn=config.size("prefix_dense_intermediate_size"))
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers)
    fields = [
        *head_size_fields(decoder),
        *_fields(decoder, dense),
        *_expert_fields(decoder, experts, shared),
    ]
    tensors = sparse_layers(decoder, (*MOE, *(SHARED if shared else ())), dense)
    left_out = drafts(decoder) if config.has("num_nextn_predict_layers") else ()
    return decoder_spec(decoder, ROWS, fields, extra=Extra(tensors=tensors, left_out=left_out))


def _fields(decoder: Decoder, dense: int) -> list[Field]:
    config = decoder.config
    fields = [
        Field.float32("cohere2moe.logit_scale", config.number("logit_scale", 0.0625)),
        Field.string("cohere2moe.rope.scaling.type", "none"),
        Field.uint32("cohere2moe.rope.dimension_count", decoder.head_dim),
        Field.uint32("cohere2moe.vocab_size", decoder.vocab),
        Field.uint32("cohere2moe.leading_dense_block_count", dense),
        Field.uint32("cohere2moe.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT)),
        Field.booleans("cohere2moe.attention.sliding_window_pattern", _sliding(decoder, dense)),
    ]
    if not decoder.graph.layer_norm:  # llama.cpp takes the other then
        fields.append(Field.float32("cohere2moe.attention.layer_norm_epsilon", config.number("layer_norm_eps", 1e-5)))
    return fields


def _sliding(decoder: Decoder, dense: int) -> tuple[bool, ...]:
    """Which layers have a window: none of the dense ones, then all but each fourth."""
    config, layers = decoder.config, decoder.layers
    if kinds := config.words("layer_types", layers, (SLIDING, FULL)):
        return tuple(kind == SLIDING for kind in kinds)
    every = config.size("sliding_window_pattern", 4, MAX_LAYERS)
    return (False,) * dense + tuple((i + 1) % every > 0 for i in range(layers - dense))


def _expert_fields(decoder: Decoder, experts: Experts, shared: int) -> list[Field]:
    """How experts are chosen: a softmax over those that are chosen, whatever norm_topk_prob is, or sigmoids."""
    config = decoder.config
    gating = config.word("expert_selection_fn", "softmax", ("softmax", "sigmoid"))
    normalized = gating == "softmax" or config.flag("norm_topk_prob", True)
    fields = [*expert_fields(decoder, experts), *routing_fields(decoder, gating, normalized=normalized)]
    if shared:
        fields.append(Field.uint32("cohere2moe.expert_shared_count", shared))
        fields.append(Field.uint32("cohere2moe.expert_shared_feed_forward_length", shared * experts.ffn))
    return fields


FAMILY = Family(
    name="cohere2_moe",
    title="North (Cohere2-MoE)",
    classes=("Cohere2MoeForCausalLM",),
    text=text,
)
