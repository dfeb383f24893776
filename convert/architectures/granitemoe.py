"""Granite-MoE: four multipliers; experts, and beside them (granitemoeshared) an MLP that every token passes."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, NORMS, B, L, biases
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("granitemoe", default_epsilon=1e-6, square=True)
MOE = f"{L}.block_sparse_moe"
EXPERTS: tuple[TensorRule, ...] = (
    (f"{MOE}.router.layer.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (
        f"{MOE}.input_linear.weight",
        (f"{B}.ffn_gate_exps.weight", f"{B}.ffn_up_exps.weight"),
        ("experts", "expert_ffn+expert_ffn", "hidden"),
    ),
    (f"{MOE}.output_linear.weight", f"{B}.ffn_down_exps.weight", ("experts", "hidden", "expert_ffn")),
)
SHARED: tuple[TensorRule, ...] = (
    (
        f"{L}.shared_mlp.input_linear.weight",
        (f"{B}.ffn_gate_shexp.weight", f"{B}.ffn_up_shexp.weight"),
        ("shared+shared", "hidden"),
    ),
    (f"{L}.shared_mlp.output_linear.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "shared")),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *EXPERTS)
MULTIPLIERS = {  # transformers' name (1 where the config is silent) -> GGUF's
    "attention_multiplier": "attention.scale",
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "logits_scaling": "logit_scale",
}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    scales = [Field.float32(f"granitemoe.{name}", config.number(key, 1.0)) for key, name in MULTIPLIERS.items()]
    experts = read_experts(decoder, count="num_local_experts", ffn="intermediate_size")
    decoder = with_experts(decoder, experts)
    rows: tuple[TensorRule, ...] = (*ROWS, *biases(ATTENTION)) if config.flag("attention_bias") else ROWS
    fields = [
        Field.uint32("granitemoe.vocab_size", decoder.vocab),
        Field.uint32("granitemoe.rope.dimension_count", decoder.head_dim),
        *expert_fields(decoder, experts, width=False),
        *scales,
    ]
    if config.values.get("shared_intermediate_size"):
        decoder = decoder.having(shared=config.size("shared_intermediate_size"))
        fields.append(Field.uint32("granitemoe.expert_shared_feed_forward_length", decoder.sizes["shared"]))
        rows = (*rows, *SHARED)
    return decoder_spec(decoder, rows, fields, side_by_side(decoder))


FAMILY = Family(
    name="granitemoe",
    title="Granite-MoE",
    classes=("GraniteMoeForCausalLM", "GraniteMoeSharedForCausalLM"),
    text=text,
)
