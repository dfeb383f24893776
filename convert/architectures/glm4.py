"""GLM-4 (0414): norms before and behind attention and MLP, half of each head turns, gate and up in one matrix."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._roles import TensorRole
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, QKV, B, L, biases
from convert.json_types import JsonObject

GRAPH = Graph("glm4", default_epsilon=1.5625e-7, rotary=Rotary((), partial=0.5))
FUSED: tuple[TensorRule, ...] = (
    (f"{L}.mlp.gate_up_proj.weight", f"{B}.ffn_up.weight", ("ffn+ffn", "hidden"), TensorRole.GATE_UP),
    MLP[2],
)
BEHIND: tuple[TensorRule, ...] = (
    (f"{L}.post_self_attn_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",)),
    (f"{L}.post_mlp_layernorm.weight", f"{B}.post_ffw_norm.weight", ("hidden",)),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=128)
    decoder = read_decoder(config, GRAPH)
    return decoder_spec(decoder, (*rows(decoder), *BEHIND), head_size_fields(decoder))


def rows(decoder: Decoder) -> Iterator[TensorRule]:
    """The tensors of both GLM families."""
    yield from (*ENDS, *NORMS, *ATTENTION, *FUSED)
    if decoder.config.flag("attention_bias", True):
        yield from biases(QKV)


FAMILY = Family(
    name="glm4",
    title="GLM-4 (0414)",
    classes=("Glm4ForCausalLM",),
    text=text,
)
