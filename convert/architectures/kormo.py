"""KORMo: Qwen2's graph without biases, its norms under other names."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, named
from convert.architectures.qwen2 import GRAPH
from convert.json_types import JsonObject

RENAMED = (("input_layernorm", "pre_attention_layernorm"), ("post_attention_layernorm", "pre_mlp_layernorm"))
ROWS: tuple[TensorRule, ...] = (*ENDS, *named(NORMS, *RENAMED), *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    return decoder_spec(decoder, ROWS, head_size_fields(decoder) if config.has("head_dim") else ())


FAMILY = Family(
    name="kormo",
    title="KORMo",
    classes=("KORMoForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
