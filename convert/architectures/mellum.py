"""Mellum 2: Qwen3-MoE's layers, most of them with a window, where positions are not stretched."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, MAX_LAYERS, Config
from convert.architectures._decoder import Decoder, Extra, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._experts import expert_fields, read_experts, with_experts
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, EXPERTS, NORMS, QK_NORM, ROUTER
from convert.architectures._window import FULL, SLIDING
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("mellum", default_epsilon=1e-6, rotary=Rotary(("yarn",), theta=500000.0), windowed=True)
ROWS = (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *ROUTER, *EXPERTS)
WINDOW = 1024  # transformers', where the config is silent
DRAFT = LeftOut("", "a layer that predicts tokens further ahead", prefix="mtp.")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128).spelled(num_experts="num_local_experts")
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's mellum graph has none behind attention")
    config.require("tie_word_embeddings", False, "llama.cpp's mellum graph wants a head of its own")
    config.require("norm_topk_prob", True, "llama.cpp's mellum graph always normalizes")
    config.require("mlp_layer_types", ["sparse"] * min(decoder.layers, MAX_LAYERS), "llama.cpp has experts in all")
    experts = read_experts(decoder)
    fields = [*head_size_fields(decoder), *expert_fields(decoder, experts), *_window_fields(decoder)]
    return decoder_spec(with_experts(decoder, experts), ROWS, fields, extra=Extra(left_out=[DRAFT]))


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    """The window and which layers have it; their frequencies are those of the others, unscaled."""
    config, layers = decoder.config, decoder.layers
    types = config.words("layer_types", layers, (SLIDING, FULL))
    if SLIDING not in types or config.values.get("sliding_window", WINDOW) is None:
        return  # llama.cpp aborts where the file has a window that no layer has
    theta = decoder.rope.theta if decoder.rope else 0.0
    local = sliding_theta(config, theta)
    if local != theta:
        why = "llama.cpp's mellum graph has one base for all layers"
        config.complain("rope_parameters: sliding_attention: rope_theta", local, f"{theta:g}", why)
    yield Field.uint32("mellum.attention.sliding_window", config.size("sliding_window", WINDOW, MAX_CONTEXT))
    yield Field.booleans("mellum.attention.sliding_window_pattern", tuple(kind == SLIDING for kind in types))
    yield Field.float32("mellum.rope.freq_base_swa", local)


FAMILY = Family(
    name="mellum",
    title="Mellum 2",
    classes=("MellumForCausalLM",),
    text=text,
)
