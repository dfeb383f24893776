"""Seed-OSS: biases on query, key and value, heads of their own size."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QKV, B, biases
from convert.json_types import JsonObject

GRAPH = Graph("seed_oss", default_epsilon=1e-6)
SECOND_NORM: TensorRule = (NORMS[1][0], f"{B}.post_attention_norm.weight", ("hidden",))  # llama.cpp's name for it here
ROWS = (*ENDS, NORMS[0], SECOND_NORM, *ATTENTION, *MLP)
PLAIN = ("attention_out_bias", "mlp_bias")


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128)
    decoder = read_decoder(config, GRAPH)
    for key in PLAIN:
        config.require(key, False, "llama.cpp's seed_oss graph has no such biases")
    rows = (*ROWS, *biases(QKV)) if config.flag("attention_bias", True) else ROWS
    return decoder_spec(decoder, rows, head_size_fields(decoder))


FAMILY = Family(
    name="seed_oss",
    title="Seed-OSS",
    classes=("SeedOssForCausalLM",),
    text=text,
)
