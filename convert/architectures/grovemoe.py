"""GroveMoE: Qwen3-MoE's layers, and for every two experts a small one that their tokens pass too."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, expand
from convert.architectures._rows import EXPERTS, named
from convert.architectures.qwen3_moe import ROWS
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("grovemoe")
SMALL: tuple[TensorRule, ...] = tuple(
    (source, str(name).replace("_exps", "_chexps"), tuple(size.replace("expert_ffn", "head") for size in dims))
    for source, name, dims, *_ in named(EXPERTS, ("mlp.experts", "mlp.chunk_experts"))
)
PER_SMALL = 2  # experts that share a small one, and what that one counts: constants of the published code
SCALE = 0.05
UNUSED = LeftOut(".expert_bias", "the published code does not use it")
EVERY = "llama.cpp's grovemoe graph has experts in every layer"


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's grovemoe graph has no biases")
    config.require("norm_topk_prob", True, "llama.cpp's grovemoe graph always normalizes")
    config.require("decoder_sparse_step", 1, EVERY)
    config.require("mlp_only_layers", [], EVERY)
    experts = read_experts(decoder)
    if experts.count % PER_SMALL:
        config.complain("num_experts", experts.count, f"a multiple of {PER_SMALL}, which share a small one")
    decoder = with_experts(decoder, experts)
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        Field.uint32("grovemoe.expert_chunk_feed_forward_length", decoder.head_dim),
        Field.uint32("grovemoe.experts_per_group", PER_SMALL),
        Field.float32("grovemoe.expert_group_scale", SCALE),
    ]
    sizes = {**decoder.sizes, "experts": max(1, experts.count // PER_SMALL)}
    extra = Extra(tensors=expand(SMALL, sizes, layers=decoder.layers), left_out=[UNUSED])
    return decoder_spec(decoder, ROWS, fields, extra=extra)


FAMILY = Family(
    name="grovemoe",
    title="GroveMoE",
    classes=("GroveMoeForCausalLM", "modeling_grove_moe.GroveMoeForCausalLM"),
    text=text,
)
