"""Llama 4: every fourth layer without positions, all others within chunks; experts whose input is weighted, and one
that every token passes.

llama.cpp's graph (models/llama4.cpp) has the chunks, and what it does far behind them, built in.
"""

from __future__ import annotations

from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import TRANSPOSED, GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._nested import inner_config
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, B, L, named
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("llama4", default_epsilon=1e-5, rotary=Rotary(("llama3",), theta=500000.0), windowed=True)
MOE = f"{L}.feed_forward"
DENSE = tuple(named(MLP, ("mlp", "feed_forward")))
EXPERTS: tuple[TensorRule, ...] = (
    (f"{MOE}.router.weight", f"{B}.ffn_gate_inp.weight", ("experts", "hidden")),
    (
        f"{MOE}.experts.gate_up_proj",
        (f"{B}.ffn_gate_exps.weight", f"{B}.ffn_up_exps.weight"),
        ("experts", "hidden", "expert_ffn+expert_ffn"),
        "transpose",
    ),
    (f"{MOE}.experts.down_proj", f"{B}.ffn_down_exps.weight", ("experts", "expert_ffn", "hidden"), "transpose"),
    (f"{MOE}.shared_expert.gate_proj.weight", f"{B}.ffn_gate_shexp.weight", ("expert_ffn", "hidden")),
    (f"{MOE}.shared_expert.up_proj.weight", f"{B}.ffn_up_shexp.weight", ("expert_ffn", "hidden")),
    (f"{MOE}.shared_expert.down_proj.weight", f"{B}.ffn_down_shexp.weight", ("hidden", "expert_ffn")),
)
TRANSFORMS = {"transpose": TRANSPOSED}
FIXED = {"attention_bias": False, "attention_chunk_size": 8192, "floor_scale": 8192, "attn_scale": 0.1}
DEFAULTS = {  # transformers' own
    "intermediate_size": 8192,
    "intermediate_size_mlp": 16384,
    "num_local_experts": 16,
    "num_experts_per_tok": 1,
    "head_dim": 128,
}
EVERY = 4  # layer without positions, which sees everything
WITHOUT_NORM = 128  # experts of the one model whose queries and keys have no norm
TOWERS = tuple(
    LeftOut("", "of the tower or its projector, which are no part of the language model", prefix=prefix)
    for prefix in ("vision_model.", "multi_modal_projector.")
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # the width of dense layers has a word of its own here, and the usual one is that of an expert
    config = inner_config(values).with_defaults(**DEFAULTS)
    config = config.spelled(intermediate_size="intermediate_size_mlp", expert_size="intermediate_size")
    decoder = read_decoder(config, GRAPH)
    _check(decoder)
    experts = read_experts(decoder, count="num_local_experts", ffn="expert_size")
    decoder = with_experts(decoder, experts)
    config.require(
        "use_qk_norm", experts.count != WITHOUT_NORM, f"llama.cpp norms unless there are {WITHOUT_NORM} experts"
    )
    step = config.size("interleave_moe_layer_step", 1)
    with_moe = range(step - 1, decoder.layers, step)
    if config.has("moe_layers") and config.values["moe_layers"] != list(with_moe):
        config.complain("moe_layers", config.values["moe_layers"], f"every {step}. layer, {list(with_moe)}")
    dense = [layer for layer in range(decoder.layers) if layer not in with_moe]
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        Field.uint32("llama4.vocab_size", decoder.vocab),
        Field.uint32("llama4.rope.dimension_count", decoder.head_dim),
        Field.uint32("llama4.interleave_moe_layer_step", step),
    ]
    tensors = [
        *expand(EXPERTS, decoder.sizes, TRANSFORMS, list(with_moe)),
        *expand(DENSE, decoder.sizes, layers=dense),
    ]
    extra = Extra(tensors=tensors, left_out=TOWERS)
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION), fields, extra=extra)


def _check(decoder: Decoder) -> None:
    """Add a problem for what llama.cpp's graph has otherwise, and always so."""
    config, why = decoder.config, "llama.cpp's llama4 graph has no other"
    for key, wanted in FIXED.items():
        config.require(key, wanted, why)
    if config.has("attn_temperature_tuning") and not config.values["attn_temperature_tuning"]:
        config.complain("attn_temperature_tuning", config.values["attn_temperature_tuning"], "true", why)
    rotated = [int((layer + 1) % EVERY > 0) for layer in range(decoder.layers)]
    if config.values.get("no_rope_layers"):
        config.require("no_rope_layers", rotated, why)
    else:
        config.require("no_rope_layer_interval", EVERY, why)
    if config.has("layer_types"):
        config.require("layer_types", ["chunked_attention" if one else "full_attention" for one in rotated], why)


FAMILY = Family(
    name="llama4",
    title="Llama 4",
    classes=("Llama4ForCausalLM", "Llama4ForConditionalGeneration"),
    text=text,
    renames=(("language_model.", ""), ("model.language_model.", "model.")),
)
