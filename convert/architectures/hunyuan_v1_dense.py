"""Hunyuan (dense): norms of queries and keys after RoPE, and positions stretched by alpha."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QK_NORM, named
from convert.json_types import JsonObject

GRAPH = Graph("hunyuan-dense", default_epsilon=1e-5)
ROWS = (
    *ENDS,
    *NORMS,
    *ATTENTION,
    *named(QK_NORM, ("q_norm", "query_layernorm"), ("k_norm", "key_layernorm")),
    *MLP,
)
PLAIN = {"attention_bias": False, "use_qk_norm": True}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = stretched(Config(values))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's hunyuan-dense graph has no other")
    return decoder_spec(decoder, ROWS, head_size_fields(decoder))


def stretched(config: Config) -> Config:
    """The config with the base that alpha makes of rope_theta (modeling_hunyuan_v1_dense.py, ntk_alpha).

    It calls that "dynamic", which it is not: the base is the same for texts of any length.
    """
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    rope = config.sub(key)
    kind = rope.values.get("rope_type", rope.values.get("type"))
    if kind != "dynamic" or not rope.has("alpha"):
        return config
    theta = (rope if rope.has("rope_theta") else config).number("rope_theta", 10000.0)
    head_dim = config.size("head_dim", max(1, config.size("hidden_size") // config.size("num_attention_heads")))
    base = theta * rope.number("alpha") ** (head_dim / max(1, head_dim - 2))
    return replace(config, values={**config.values, key: {}, "rope_theta": base})


FAMILY = Family(
    name="hunyuan_v1_dense",
    title="Hunyuan (dense)",
    classes=("HunYuanDenseV1ForCausalLM",),
    text=text,
)
