"""BLOOM: no positions but a penalty on distance (ALiBi), a norm after the embedding, biases everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_part, read_decoder
from convert.architectures._part import Part, Row, Way
from convert.architectures._rows import B, biases
from convert.architectures.gpt_neox import heads_apart

CLASSES = ("BloomForCausalLM",)
RENAMES = (("transformer.", ""),)  # the published files have the names without

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

L = "h.{i}"
EMBEDDING: Row = ("word_embeddings.weight", "token_embd.weight", ("vocab", "hidden"))
TABLE: tuple[Row, ...] = (
    ("word_embeddings_layernorm.weight", "token_embd_norm.weight", ("hidden",)),
    ("ln_f.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.self_attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    (f"{L}.self_attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.dense_h_to_4h.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.dense_4h_to_h.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
TRAINED_ON = 2048  # tokens, all of them; ALiBi itself has no limit and configs need not name one


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(seq_length=TRAINED_ON)
    sizes = {  # transformers has no others, whatever the config says
        "num_key_value_heads": config.size("num_attention_heads"),
        "intermediate_size": 4 * config.size("hidden_size"),
    }
    decoder = read_decoder(replace(config, values={**config.values, **sizes}), GRAPH)
    config.require("apply_residual_connection_post_layernorm", False, "llama.cpp's bloom graph has no other")
    return decoder_part(decoder, (EMBEDDING, *TABLE, *biases(TABLE)), ways={"qkv": Way(heads_apart(decoder.heads))})
