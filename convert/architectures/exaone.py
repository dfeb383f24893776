"""EXAONE 3 and 3.5: Llama's layers under GPT-2's names."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, named
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "exaone",
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activation="activation_function",
    rotary=Rotary(("linear", "llama3")),
)
SPELLINGS = {"num_hidden_layers": "num_layers"}
RENAMED = (
    ("model.layers.", "transformer.h."),
    ("model.embed_tokens", "transformer.wte"),
    ("model.norm", "transformer.ln_f"),
    ("input_layernorm", "ln_1"),
    ("post_attention_layernorm", "ln_2"),
    ("self_attn.o_proj", "attn.attention.out_proj"),
    ("self_attn", "attn.attention"),
    ("gate_proj", "c_fc_0"),
    ("up_proj", "c_fc_1"),
    ("down_proj", "c_proj"),
)
ROWS: tuple[TensorRule, ...] = tuple(named((*ENDS, *NORMS, *ATTENTION, *MLP), *RENAMED))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    decoder = read_decoder(Config(values).spelled(**SPELLINGS), GRAPH)
    fields = [*head_size_fields(decoder), Field.uint32("exaone.rope.dimension_count", decoder.head_dim)]
    return decoder_spec(decoder, ROWS, fields)


FAMILY = Family(
    name="exaone",
    title="EXAONE 3 and 3.5",
    classes=("ExaoneForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
