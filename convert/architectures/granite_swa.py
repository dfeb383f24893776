"""Granite with windows: every fourth layer sees everything, sinks in all, some layers may have no positions."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, L
from convert.architectures._window import FULL, SLIDING
from convert.architectures.granitemoe import MULTIPLIERS
from convert.architectures.llama import layer_rows, side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "granite_swa", default_epsilon=1e-5, rotary=Rotary(("linear", "yarn")), square=True, windowed=True, tied=True
)
SINKS: TensorRule = (f"{L}.self_attn.sinks", f"{B}.attn_sinks.weight", ("heads",))
EVERY = 4  # layer, from the first on, that sees everything, where layer_types are not said


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = _with_one_theta(Config(values))
    decoder = read_decoder(config, GRAPH)
    decoder = decoder.having(heads=decoder.heads)
    fields = [
        Field.uint32("granite_swa.vocab_size", decoder.vocab),
        Field.uint32("granite_swa.rope.dimension_count", decoder.head_dim),
        *(Field.float32(f"granite_swa.{name}", config.number(key, 1.0)) for key, name in MULTIPLIERS.items()),
        *_layer_fields(decoder),
    ]
    return decoder_spec(decoder, (*layer_rows(config), SINKS), fields, side_by_side(decoder))


def _with_one_theta(config: Config) -> Config:
    """The config with one base of all frequencies: llama.cpp has the same in all layers that have positions."""
    if not config.has("layer_rope_theta"):
        return config
    layers = config.size("num_hidden_layers", most=512)
    thetas = {theta for theta in config.numbers("layer_rope_theta", layers) if theta}
    if len(thetas) > 1:
        got = config.values["layer_rope_theta"]
        config.complain("layer_rope_theta", got, "0 or one number", "llama.cpp has one base for all layers")
    if not thetas:
        return config
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    inner = {name: value for name, value in config.sub(key).values.items() if name != "rope_theta"}
    more = {"rope_theta": max(thetas), **({key: inner} if config.has(key) else {})}
    return Config({**config.values, **more}, config.where, config.problems)


def _layer_fields(decoder: Decoder) -> Iterator[Field]:
    """Which layers have a window, and which have no positions."""
    config, layers, prefix = decoder.config, decoder.layers, "granite_swa.attention"
    types = config.words("layer_types", layers, (SLIDING, FULL))
    pattern = [kind == SLIDING for kind in types] or [layer % EVERY > 0 for layer in range(layers)]
    yield Field.uint32(f"{prefix}.sliding_window", config.size("sliding_window", 128, MAX_CONTEXT))
    yield Field.booleans(f"{prefix}.sliding_window_pattern", pattern)
    if config.has("layer_rope_theta"):
        turning = [theta > 0 for theta in config.numbers("layer_rope_theta", layers)]
        if not all(turning):
            yield Field.booleans(f"{prefix}.rope_pattern", turning)


FAMILY = Family(
    name="granite_swa",
    title="Granite with windows",
    classes=("GraniteSWAForCausalLM",),
    text=text,
)
