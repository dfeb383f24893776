"""GLM-4.5 and 4.6: experts chosen by sigmoids with a bias, and a shared one, after some dense layers."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, MLP, NORMS, QK_NORM, QKV, ROUTER, biases
from convert.architectures.deepseek2 import CORRECTION, GATING, SHARED, drafts
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("glm4moe", default_epsilon=1e-5, rotary=Rotary(partial=0.5))
NAMED = tuple((source, str(name).replace("ffn_norm", "post_attention_norm"), dims) for source, name, dims, *_ in NORMS)
MOE: tuple[TensorRule, ...] = (*ROUTER, CORRECTION, *EXPERTS, *SHARED)
NO_GROUPS = "its models have one group of experts"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(norm_topk_prob=True, n_shared_experts=1, routed_scaling_factor=1.0)
    config = config.spelled(num_experts="n_routed_experts")
    decoder = read_decoder(config, GRAPH)
    experts = read_experts(decoder)
    shared = config.size("n_shared_experts")
    decoder = with_experts(decoder, experts).having(shared=shared * experts.ffn)
    dense = config.size("first_k_dense_replace", 1, most=decoder.layers, least=0)
    for key in ("n_group", "topk_group"):
        config.require(key, 1, NO_GROUPS)
    rows = (*ENDS, *NAMED, *ATTENTION)
    rows += tuple(biases(QKV)) if config.flag("attention_bias") else ()
    rows += QK_NORM if config.flag("use_qk_norm") else ()
    fields = [
        *(head_size_fields(decoder) if config.has("head_dim") else ()),
        *expert_fields(decoder, experts),
        Field.uint32("glm4moe.expert_group_count", 1),
        Field.uint32("glm4moe.expert_group_used_count", 1),
        Field.uint32("glm4moe.leading_dense_block_count", dense),
        Field.uint32("glm4moe.expert_shared_count", shared),
        Field.uint32("glm4moe.expert_gating_func", GATING["sigmoid"]),
        Field.float32("glm4moe.expert_weights_scale", config.number("routed_scaling_factor")),
        Field.boolean("glm4moe.expert_weights_norm", config.flag("norm_topk_prob")),
    ]
    tensors = (
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(MOE, decoder.sizes, layers=range(dense, decoder.layers)),
    )
    return decoder_spec(decoder, rows, fields, extra=Extra(tensors=tensors, left_out=drafts(decoder)))


FAMILY = Family(
    name="glm4_moe",
    title="GLM-4.5 and 4.6",
    classes=("Glm4MoeForCausalLM",),
    text=text,
)
