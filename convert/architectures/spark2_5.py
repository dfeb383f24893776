"""Spark X2.5: a gate on every head; layers with a window turn another share of each head than those without."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import ENDS, MLP, NORMS, OUTPUT, B, L
from convert.architectures._window import FULL, SLIDING
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("spark2_5", activations=("gelu",), rotary=Rotary((), partial=1.0), windowed=True)
ROWS: tuple[TensorRule, ...] = (
    *ENDS,
    *NORMS,
    (f"{L}.self_attn.q_k_v_proj.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{L}.self_attn.g_proj.weight", f"{B}.attn_gate.weight", ("heads", "hidden")),
    *OUTPUT,
    *MLP,
)
GATE = {"gate_attn_act_mode": "sigmoid", "headwise_attn_output_gate": True}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in GATE.items():
        config.require(key, wanted, "llama.cpp's spark2_5 graph has no other")
    fields = [
        Field.uint32("spark2_5.vocab_size", decoder.vocab),
        *head_size_fields(decoder),
        *_window_fields(decoder),
    ]
    return decoder_spec(decoder.having(heads=decoder.heads), ROWS, fields)


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    """The window, which layers have it, and what of their heads turns by which frequencies."""
    config, layers = decoder.config, decoder.layers
    types = config.words("layer_types", layers, (SLIDING, FULL))
    if SLIDING not in types:
        why = "llama.cpp's spark2_5 graph wants a window"
        config.complain("layer_types", list(types), f"{SLIDING} among them", why)
    local = config.sub("rope_parameters").sub("sliding_attention")
    share = local.number("partial_rotary_factor", 1.0)
    turning = int(decoder.head_dim * share)
    if turning > decoder.head_dim or turning % 2 or not turning:
        wanted = f"an even part of a head of {decoder.head_dim} values"
        local.complain("partial_rotary_factor", share, wanted)
    yield Field.uint32("spark2_5.attention.sliding_window", config.size("sliding_window", most=MAX_CONTEXT))
    yield Field.booleans("spark2_5.attention.sliding_window_pattern", tuple(kind == SLIDING for kind in types))
    yield Field.uint32("spark2_5.rope.dimension_count_swa", turning)
    yield Field.float32("spark2_5.rope.freq_base_swa", sliding_theta(config, 10000.0))


FAMILY = Family(
    name="spark2_5",
    title="Spark X2.5",
    classes=("Spark2_5ForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
