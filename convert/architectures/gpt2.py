"""GPT-2: a table of positions, q, k and v in one matrix, weights stored (in, out)."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import TRANSPOSED, GraphSpec, LeftOut, TensorRule
from convert.architectures._rows import B, biases
from convert.json_types import JsonObject

GRAPH = Graph(
    "gpt2",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=("gelu_new", *GELU_TANH),
    activation="activation_function",
    rotary=None,
    grouped=False,
    square=True,
    tied=True,
)
SPELLINGS = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
}

L = "h.{i}"
EMBEDDINGS: tuple[TensorRule, ...] = (
    ("wte.weight", "token_embd.weight", ("vocab", "hidden")),
    ("wpe.weight", "position_embd.weight", ("context", "hidden")),
)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.ln_1.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.ln_2.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    ("ln_f.weight", "output_norm.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (
    (f"{L}.attn.c_attn.weight", f"{B}.attn_qkv.weight", ("hidden", "q+kv+kv"), "matrix"),
    (f"{L}.attn.c_proj.weight", f"{B}.attn_output.weight", ("q", "hidden"), "matrix"),
    (f"{L}.mlp.c_fc.weight", f"{B}.ffn_up.weight", ("hidden", "ffn"), "matrix"),
    (f"{L}.mlp.c_proj.weight", f"{B}.ffn_down.weight", ("ffn", "hidden"), "matrix"),
)
BIASES: tuple[TensorRule, ...] = (
    (f"{L}.attn.c_attn.bias", f"{B}.attn_qkv.bias", ("q+kv+kv",)),
    (f"{L}.attn.c_proj.bias", f"{B}.attn_output.bias", ("hidden",)),
    (f"{L}.mlp.c_fc.bias", f"{B}.ffn_up.bias", ("ffn",)),
    (f"{L}.mlp.c_proj.bias", f"{B}.ffn_down.bias", ("hidden",)),
)
MASKS = tuple(LeftOut(name, "a causal mask, not a weight") for name in (".attn.bias", ".attn.masked_bias"))
PLAIN = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    if not config.has("intermediate_size"):
        config = config.with_defaults(n_inner=4 * config.size("hidden_size"))
    decoder = read_decoder(config, GRAPH)
    for key, wanted in PLAIN.items():
        config.require(key, wanted, "llama.cpp's gpt2 graph has no other")
    rows = (*EMBEDDINGS, *NORMS, *biases(NORMS), *MATRICES, *BIASES)
    return decoder_spec(decoder, rows, transforms={"matrix": TRANSPOSED}, extra=Extra(left_out=MASKS))


FAMILY = Family(
    name="gpt2",
    title="GPT-2",
    classes=("GPT2LMHeadModel",),
    text=text,
    renames=(("transformer.", ""),),  # OpenAI's own file has the names without
    tested=("onnx",),
)
