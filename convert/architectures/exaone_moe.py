"""K-EXAONE: windows with positions, every fourth layer without either; experts and a shared one after dense layers."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER, B, L
from convert.architectures._sparse import dense_layers, group_fields, routing_fields, sparse_layers
from convert.architectures._window import sliding_layers
from convert.architectures.deepseek2 import SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("exaone-moe", default_epsilon=1e-5, rotary=Rotary(()), windowed=True)
CORRECTION: TensorRule = (f"{L}.mlp.e_score_correction_bias", f"{B}.exp_probs_b.bias", ("experts",))
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM)
MOE = (*ROUTER, CORRECTION, *EXPERTS, *SHARED)
DRAFTS = LeftOut("", "layers that predict tokens further ahead", prefix="mtp.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(
        sliding_window=4096, num_shared_experts=1, routed_scaling_factor=2.5, norm_topk_prob=True
    )
    decoder = read_decoder(config, GRAPH)
    config.require("scoring_func", "sigmoid", "llama.cpp's exaone-moe graph has no other")
    config.require("tie_word_embeddings", False, "llama.cpp's exaone-moe graph wants a head of its own")
    experts = read_experts(decoder)
    shared = config.size("num_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = dense_layers(config, decoder.layers, default=1)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *group_fields(decoder, experts),
        *routing_fields(
            decoder,
            "sigmoid",
            scale=config.number("routed_scaling_factor"),
            normalized=config.flag("norm_topk_prob"),
        ),
        *_window_fields(decoder),
        Field.uint32("exaone-moe.vocab_size", decoder.vocab),
        Field.string("exaone-moe.rope.scaling.type", "none"),
        Field.uint32("exaone-moe.leading_dense_block_count", dense),
        Field.uint32("exaone-moe.expert_shared_count", shared),
        Field.uint32("exaone-moe.expert_shared_feed_forward_length", decoder.sizes["shared"]),
    ]
    extra = Extra(tensors=sparse_layers(decoder, MOE, dense), left_out=[DRAFTS])
    return decoder_spec(decoder, ROWS, fields, extra=extra)


def _window_fields(decoder: Decoder) -> list[Field]:
    config = decoder.config
    if config.has("layer_types"):  # the pattern may be spelled "LLLG" beside it
        config = Config({**config.values, "sliding_window_pattern": None}, config.where, config.problems)
    return [
        Field.uint32("exaone-moe.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT)),
        Field.booleans("exaone-moe.attention.sliding_window_pattern", sliding_layers(config, decoder.layers, 4)),
    ]


FAMILY = Family(
    name="exaone_moe",
    title="K-EXAONE",
    classes=("ExaoneMoeForCausalLM", "ExaoneMoEForCausalLM"),
    text=text,
)
