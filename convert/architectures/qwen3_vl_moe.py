"""Qwen3-VL-MoE: Qwen3-VL with experts in every layer, all of a layer's in one tensor with inputs before outputs."""

from __future__ import annotations

from convert.architectures import _qwen_vision as qwen
from convert.architectures import qwen3_vl
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import TRANSPOSED, GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, NORMS, QK_NORM, ROUTER, B, L
from convert.json_types import JsonObject

GRAPH = Graph("qwen3vlmoe", rotary=Rotary(theta=500000.0))
EXPERTS: tuple[TensorRule, ...] = (
    (
        f"{L}.mlp.experts.gate_up_proj",
        (f"{B}.ffn_gate_exps.weight", f"{B}.ffn_up_exps.weight"),
        ("experts", "hidden", "expert_ffn+expert_ffn"),
        "transpose",
    ),
    (f"{L}.mlp.experts.down_proj", f"{B}.ffn_down_exps.weight", ("experts", "expert_ffn", "hidden"), "transpose"),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *ROUTER, *EXPERTS)
ALL_LAYERS = "llama.cpp's qwen3vlmoe graph has experts in every layer"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # transformers 5 writes num_local_experts
    config = qwen.text_config(values).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    fields = qwen3_vl.text_fields(values, decoder)
    # transformers has no such word for this model, and always normalizes
    config.require("norm_topk_prob", True, "llama.cpp's qwen3vlmoe graph always normalizes")
    config.require("decoder_sparse_step", 1, ALL_LAYERS)
    config.require("mlp_only_layers", [], ALL_LAYERS)
    experts = read_experts(decoder)
    fields += expert_fields(decoder, experts)
    return decoder_spec(with_experts(decoder, experts), ROWS, fields, {"transpose": TRANSPOSED})


FAMILY = Family(
    name="qwen3_vl_moe",
    title="Qwen3-VL-MoE",
    classes=("Qwen3VLMoeForConditionalGeneration",),
    text=text,
    vision=qwen3_vl.vision,
    vision_prefix=("visual.",),
    renames=qwen.RENAMES,
    graphs="",
)
