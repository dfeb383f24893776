"""BLOOM: no positions but a slope on the scores, a norm behind the embedding, q, k and v of each head together."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform
from convert.architectures._rows import B, biases
from convert.architectures.gpt_neox import heads_apart
from convert.json_types import JsonObject

GRAPH = Graph(
    "bloom",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=GELU_TANH,
    rotary=None,
    square=True,
    tied=True,
)
SPELLINGS = {
    "hidden_size": "n_embed",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "seq_length",
}
NORMS: tuple[TensorRule, ...] = (
    ("word_embeddings_layernorm.weight", "token_embd_norm.weight", ("hidden",)),
    ("ln_f.weight", "output_norm.weight", ("hidden",)),
    ("h.{i}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    ("h.{i}.post_attention_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (
    ("h.{i}.self_attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    ("h.{i}.self_attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    ("h.{i}.mlp.dense_h_to_4h.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    ("h.{i}.mlp.dense_4h_to_h.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
EMBEDDING: TensorRule = ("word_embeddings.weight", "token_embd.weight", ("vocab", "hidden"))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(seq_length=2048)
    # transformers has no other width of the MLP, and one key and value for each query
    config = Config(
        {**config.values, "intermediate_size": 4 * config.size("hidden_size"), "num_key_value_heads": None},
        config.where,
        config.problems,
        config.spellings,
    )
    decoder = read_decoder(config, GRAPH)
    why = "llama.cpp's bloom graph has no other"
    config.require("apply_residual_connection_post_layernorm", False, why)
    rows = (EMBEDDING, *NORMS, *MATRICES, *biases(NORMS, MATRICES))
    return decoder_spec(decoder, rows, transforms={"qkv": Transform(heads_apart(decoder.heads))})


FAMILY = Family(
    name="bloom",
    title="BLOOM",
    classes=("BloomForCausalLM", "BloomModel"),
    text=text,
    renames=(("transformer.", ""),),  # BigScience's own files have the names without
    tested=("onnx",),
)
