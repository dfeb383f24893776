"""CodeShell: LayerNorm, biases everywhere, q, k and v in one matrix, an MLP without a gate."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "codeshell",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=GELU_TANH,
    activation="activation_function",
    rotary=Rotary(()),
    square=True,
)
SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "num_query_groups",
    "max_position_embeddings": "n_positions",
    "intermediate_size": "n_inner",
}
H = "transformer.h.{i}"
ENDS: tuple[TensorRule, ...] = (
    ("transformer.wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("transformer.ln_f.weight", "output_norm.weight", ("hidden",)),
)
LAYERS: tuple[TensorRule, ...] = (
    (f"{H}.ln_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{H}.ln_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{H}.attn.c_attn.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden")),
    (f"{H}.attn.c_proj.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{H}.mlp.c_fc.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{H}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    config = config.with_defaults(n_inner=4 * config.size("n_embd", 4096))
    decoder = read_decoder(config, GRAPH)
    config.require("position_embedding_type", "rope", "llama.cpp's codeshell graph has no other positions")
    config.require("tie_word_embeddings", False, "llama.cpp's codeshell graph wants a head of its own")
    fields = [
        Field.string("codeshell.rope.scaling.type", "linear"),
        Field.float32("codeshell.rope.scaling.factor", 1.0),
    ]
    return decoder_spec(decoder, (*ENDS, *LAYERS, *biases(ENDS[1:], LAYERS)), fields)


FAMILY = Family(
    name="codeshell",
    title="CodeShell",
    classes=("CodeShellForCausalLM",),
    text=text,
    graphs="",
)
