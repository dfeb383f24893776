"""ERNIE 4.5 with experts: chosen with a bias that does not weigh them, and shared ones, after some dense layers."""

from __future__ import annotations

from convert.architectures._config import MAX_LAYERS, Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, B, L
from convert.architectures._sparse import NO_SUCH_LAYERS, sparse_layers
from convert.architectures.deepseek2 import SHARED
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("ernie4_5-moe", default_epsilon=1e-5, rotary=Rotary(theta=500000.0), tied=True)
CORRECTION: TensorRule = (
    f"{L}.mlp.moe_statics.e_score_correction_bias",
    f"{B}.exp_probs_b.bias",
    ("one", "experts"),
)
DRAFTS = LeftOut("", "layers that predict tokens further ahead", prefix="model.mtp_")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(moe_num_shared_experts=2, moe_layer_start_index=1)
    config = config.spelled(num_experts="moe_num_experts", num_experts_per_tok="moe_k")
    decoder = read_decoder(config, GRAPH)
    config.require("use_bias", False, "llama.cpp's ernie4_5-moe graph has no biases")
    config.require("moe_layer_interval", 1, NO_SUCH_LAYERS)
    if config.values.get("moe_layer_end_index") not in (None, -1, decoder.layers - 1):
        config.complain("moe_layer_end_index", config.values["moe_layer_end_index"], "-1", NO_SUCH_LAYERS)
    experts = read_experts(decoder)
    shared = config.size("moe_num_shared_experts", most=MAX_LAYERS, least=0)
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn, one=1)
    dense = config.size("moe_layer_start_index", most=decoder.layers, least=0)
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        *expert_fields(decoder, experts),
        Field.uint32("ernie4_5-moe.interleave_moe_layer_step", 1),
        Field.uint32("ernie4_5-moe.leading_dense_block_count", dense),
        Field.uint32("ernie4_5-moe.expert_shared_count", shared),
    ]
    if shared:
        fields.append(Field.uint32("ernie4_5-moe.expert_shared_feed_forward_length", decoder.sizes["shared"]))
    moe = (*ROUTER, CORRECTION, *EXPERTS, *(SHARED if shared else ()))
    extra = Extra(tensors=sparse_layers(decoder, moe, dense), left_out=[DRAFTS])
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION), fields, extra=extra)


FAMILY = Family(
    name="ernie4_5_moe",
    title="ERNIE 4.5 (experts)",
    classes=("Ernie4_5_MoeForCausalLM",),
    text=text,
)
