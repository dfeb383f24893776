"""EXAONE 4: norms after attention and MLP; the 32B has windows, and positions only in the layers that have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_part, head_size_fields, read_decoder
from convert.architectures._part import Part, Row
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM, B, L
from convert.architectures._window import sliding_layers
from convert.gguf.fields import Field

CLASSES = ("Exaone4ForCausalLM",)

GRAPH = Graph("exaone4", default_epsilon=1e-5, rotary=Rotary(("linear", "yarn", "llama3")), square=True, windowed=True)
NORMS: tuple[Row, ...] = (
    (f"{L}.post_attention_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",)),
    (f"{L}.post_feedforward_layernorm.weight", f"{B}.post_ffw_norm.weight", ("hidden",)),
)
LAYERS_OF_32B = 64  # which llama.cpp tells the model with windows by (models/exaone4.cpp)


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if config.has("layer_types"):  # then the pattern, a number or "LLLG", does not count
        config = replace(config, values={k: v for k, v in values.items() if k != "sliding_window_pattern"})
    decoder = read_decoder(config, GRAPH)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("exaone4.vocab_size", decoder.vocab),
        *_window_fields(decoder),
    ]
    return decoder_part(decoder, (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *MLP), fields)


def _window_fields(decoder: Decoder) -> list[Field]:
    """The window and the layers that have it; models without one have none of these."""
    config, has = decoder.config, decoder.config.has("sliding_window")
    if has != (decoder.layers == LAYERS_OF_32B):
        wanted = f"null, or {LAYERS_OF_32B} layers" if has else f"one, or fewer than {LAYERS_OF_32B} layers"
        why = "llama.cpp's exaone4 graph has windows in models of that many layers, always and only"
        config.complain("sliding_window", config.values.get("sliding_window"), wanted, why)
    if not has:
        return []
    layers = sliding_layers(config, decoder.layers, 4)
    return [
        Field.uint32("exaone4.attention.sliding_window", config.size("sliding_window")),
        Field.booleans("exaone4.attention.sliding_window_pattern", layers),
    ]
