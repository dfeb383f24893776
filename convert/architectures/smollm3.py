"""SmolLM3: Llama's layers, but every fourth knows no positions."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.architectures.llama import side_by_side
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("smollm3", default_epsilon=1e-6, rotary=Rotary(theta=2e6), square=True, tied=True)
EVERY = 4  # llama.cpp's (models/smollm3.cpp), and transformers' where the config is silent


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    for key in ("attention_bias", "mlp_bias"):
        config.require(key, False, "llama.cpp's smollm3 graph has no biases")
    _check_positions(config, decoder.layers)
    fields = [
        Field.uint32("smollm3.vocab_size", decoder.vocab),
        Field.uint32("smollm3.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields, side_by_side(decoder))


def _check_positions(config: Config, layers: int) -> None:
    """Add a problem where other layers than each fourth know no positions (transformers: 0 in no_rope_layers)."""
    if not config.has("no_rope_layers"):
        config.require("no_rope_layer_interval", EVERY, "llama.cpp's smollm3 graph has no other")
        return
    rotated = config.sizes("no_rope_layers", most=1)
    if rotated != tuple(int((layer + 1) % EVERY > 0) for layer in range(layers)):
        config.complain("no_rope_layers", list(rotated), f"0 for every {EVERY}. layer and 1 for all others")


FAMILY = Family(
    name="smollm3",
    title="SmolLM3",
    classes=("SmolLM3ForCausalLM",),
    text=text,
)
