"""Bamba: Granite 4's layers under other names, without its multipliers, and with positions in half of every head."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, MLP, NORMS, B, L, named
from convert.architectures.granite_hybrid import hybrid_spec
from convert.json_types import JsonObject

GRAPH = Graph("granitehybrid", default_epsilon=1e-5, square=True, rotary=Rotary(partial=0.5))
DEFAULTS = {  # transformers' own where the config is silent
    "mamba_n_heads": 128,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_expand": 2,
    "num_key_value_heads": 8,
}
ROWS: tuple[TensorRule, ...] = (
    ENDS[0],
    ("model.final_layernorm.weight", "output_norm.weight", ("hidden",)),
    NORMS[0],
    (f"{L}.pre_ff_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    *named(MLP, ("mlp.", "feed_forward.")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    # modeling_bamba.py turns half of a head, whatever the config says
    config = Config({**values, "partial_rotary_factor": 0.5}).with_defaults(**DEFAULTS)
    decoder = read_decoder(config, GRAPH)
    config.require("mlp_bias", False, "llama.cpp's graph has no such biases")
    attending = config.sizes("attn_layer_indices", (), most=decoder.layers)
    return hybrid_spec(decoder, [i in attending for i in range(decoder.layers)], ROWS, [], rope=True)


FAMILY = Family(
    name="bamba",
    title="Bamba",
    classes=("BambaForCausalLM",),
    text=text,
)
