"""LFM2-MoE: LFM2 with experts behind its first layers, chosen by a sigmoid and a bias."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._decoder import read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, expand
from convert.architectures._rows import B
from convert.architectures.deepseek2 import GATING
from convert.architectures.lfm2 import FFN, GRAPH, KINDS, MLP, hybrid_spec, read_config
from convert.gguf_field import Field
from convert.json_types import JsonObject

MOE: tuple[TensorRule, ...] = (
    (f"{FFN}.gate.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (f"{FFN}.expert_bias", f"{B}.exp_probs_b.bias", ("experts",)),
    (f"{FFN}.experts.{{e}}.w1.weight", f"{B}.ffn_gate_exps.weight", ("expert_ffn", "hidden")),
    (f"{FFN}.experts.{{e}}.w3.weight", f"{B}.ffn_up_exps.weight", ("expert_ffn", "hidden")),
    (f"{FFN}.experts.{{e}}.w2.weight", f"{B}.ffn_down_exps.weight", ("hidden", "expert_ffn")),
)
FIXED = {"use_expert_bias": True, "norm_topk_prob": True, "routed_scaling_factor": 1.0}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = read_config(values)
    decoder = read_decoder(config, replace(GRAPH, name="lfm2moe", mlp=True))
    for key, wanted in FIXED.items():
        config.require(key, wanted, "llama.cpp's lfm2moe graph has no other")
    kinds = config.words("layer_types", decoder.layers, KINDS)
    if not kinds:
        if not config.has("layer_types"):
            config.complain("layer_types", None, f"{decoder.layers} of {' and '.join(KINDS)}")
        kinds = tuple(KINDS[i % 2] for i in range(decoder.layers))
    experts = read_experts(decoder)
    decoder = with_experts(decoder, experts)
    dense = config.size("num_dense_layers", 2, most=decoder.layers, least=0)
    tensors = (
        *expand(MLP, decoder.sizes, layers=range(dense)),
        *expand(MOE, decoder.sizes, layers=range(dense, decoder.layers)),
    )
    fields = [
        *expert_fields(decoder, experts),
        Field.uint32("lfm2moe.leading_dense_block_count", dense),
        Field.uint32("lfm2moe.expert_gating_func", GATING["sigmoid"]),
    ]
    return hybrid_spec(decoder, kinds, (), fields, tensors)


FAMILY = Family(
    name="lfm2_moe",
    title="LFM2-MoE",
    classes=("Lfm2MoeForCausalLM",),
    text=text,
)
