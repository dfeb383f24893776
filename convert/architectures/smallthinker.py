"""SmallThinker: experts with ReLU, chosen from what goes into a layer, before its attention."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, ROUTER, named
from convert.architectures._sparse import routing_fields
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("smallthinker", default_epsilon=1e-6, rotary=Rotary(()), windowed=True)
PUBLISHED = (
    ("mlp.gate.", "block_sparse_moe.primary_router."),
    ("mlp.", "block_sparse_moe."),
    ("gate_proj", "gate"),
    ("up_proj", "up"),
    ("down_proj", "down"),
)
ROWS = (*ENDS, *NORMS, *ATTENTION, *named((*ROUTER, *EXPERTS), *PUBLISHED))
WINDOW, EVERY = 4096, 4  # llama.cpp's, whatever the file says (models/smallthinker.cpp)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(
        num_experts="moe_num_primary_experts",
        num_experts_per_tok="moe_num_active_primary_experts",
        intermediate_size="moe_ffn_hidden_size",
    )
    decoder = read_decoder(config, GRAPH)
    layers = [1] * decoder.layers
    config.require("moe_layer_layout", layers, "llama.cpp's smallthinker graph has experts in every layer")
    if config.flag("moe_enable_secondary_experts"):
        config.complain("moe_enable_secondary_experts", True, "false", "llama.cpp's smallthinker graph has none")
    experts = read_experts(decoder, ffn="intermediate_size")
    softmax = config.flag("moe_primary_router_apply_softmax")
    fields = [
        *head_size_fields(decoder),
        *expert_fields(decoder, experts),
        *routing_fields(decoder, "softmax" if softmax else "sigmoid"),
        *_window_fields(decoder),
    ]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields)


def _window_fields(decoder: Decoder) -> list[Field]:
    """A window, and positions, in all layers but each fourth from the first on; or positions and no window at all."""
    config, layers = decoder.config, decoder.layers
    windows = config.sizes("sliding_window_layout", [0] * layers, most=1)
    if not any(windows):
        config.require("rope_layout", [1] * layers, "llama.cpp's graph without windows turns heads in every layer")
        return []
    wanted = [int(i % EVERY > 0) for i in range(layers)]
    for key in ("sliding_window_layout", "rope_layout"):
        config.require(key, wanted, "llama.cpp's smallthinker graph knows no other order of layers")
    window = config.size("sliding_window_size", most=MAX_CONTEXT)
    config.require("sliding_window_size", WINDOW, "llama.cpp takes this one whatever the file says")
    return [Field.uint32("smallthinker.attention.sliding_window", window)]


FAMILY = Family(
    name="smallthinker",
    title="SmallThinker",
    classes=("SmallThinkerForCausalLM",),
    text=text,
)
