"""Falcon: few keys and values for all queries, in one matrix with them; attention and MLP side by side."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, View
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject
from convert.source.model_types import class_of

GRAPH = Graph(
    "falcon",
    layer_norm=True,
    epsilon="layer_norm_epsilon",
    default_epsilon=1e-5,
    activations=GELU,
    activation="activation",
    rotary=Rotary(()),
    square=True,
    tied=True,
)
SPELLINGS = {"num_key_value_heads": "num_kv_heads", "intermediate_size": "ffn_hidden_size"}
OLD, NEW = "RWForCausalLM", "RefinedWeb"
OLD_SPELLINGS = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head", "num_key_value_heads": "n_head_kv"}

H = "transformer.h.{i}"
EMBEDDING: TensorRule = ("transformer.word_embeddings.weight", "token_embd.weight", ("vocab", "hidden"))
LAST_NORM: TensorRule = ("transformer.ln_f.weight", "output_norm.weight", ("hidden",))
ONE_NORM: tuple[TensorRule, ...] = ((f"{H}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),)
TWO_NORMS: tuple[TensorRule, ...] = (  # llama.cpp's attn_norm is the one before the MLP (models/falcon.cpp)
    (f"{H}.ln_mlp.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{H}.ln_attn.weight", f"{B}.attn_norm_2.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (
    (f"{H}.self_attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    (f"{H}.self_attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{H}.mlp.dense_h_to_4h.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{H}.mlp.dense_4h_to_h.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = _read(values)
    decoder = read_decoder(config, GRAPH)
    for key, wanted in (("alibi", False), ("parallel_attn", True), ("bias", False)):
        config.require(key, wanted, "llama.cpp's falcon graph has no other")
    norms = (LAST_NORM, *_norms(decoder))
    fields = [Field.string("falcon.tensor_data_layout", "jploski")]  # all queries, all keys, all values
    transforms = {"qkv": Transform(groups_apart(decoder.heads, decoder.kv_heads))}
    return decoder_spec(decoder, (EMBEDDING, *norms, *biases(norms), *MATRICES), fields, transforms)


def _read(values: JsonObject) -> Config:
    """The config; the first Falcons have one key and value for all, whatever num_kv_heads says."""
    config = Config(values).spelled(**SPELLINGS).with_defaults(max_position_embeddings=2048)
    if class_of(values) == OLD:  # whose 40B has a model_type of its own and is of the new decoder architecture
        config = config.spelled(**OLD_SPELLINGS).with_defaults(new_decoder_architecture=values.get("model_type") == NEW)
    if not config.has("intermediate_size"):
        config = config.with_defaults(ffn_hidden_size=4 * config.size("hidden_size"))
    if config.flag("multi_query", True) and not config.flag("new_decoder_architecture"):
        one = {config.spellings["num_key_value_heads"]: 1}
        config = Config({**config.values, **one}, config.where, config.problems, config.spellings)
    return config


def _norms(decoder: Decoder) -> tuple[TensorRule, ...]:
    """One before both attention and MLP, or one each in Falcon 40B and 180B."""
    config = decoder.config
    new = config.flag("new_decoder_architecture")
    norms = config.size("num_ln_in_parallel_attn", 2 if new else 1, 2)
    if norms == 2 and not new:
        config.complain("num_ln_in_parallel_attn", 2, "1", "two norms are of the new decoder architecture")
    return TWO_NORMS if norms == 2 else ONE_NORM


def groups_apart(heads: int, kv_heads: int) -> View:
    """A view of a matrix that has the queries, key and value of the first group, then those of the next …: all
    queries, all keys, all values (a copy where there are more groups than one, as no strides say it)."""
    each = heads // kv_heads

    def view(weight: np.ndarray) -> np.ndarray:
        if kv_heads == 1:
            return weight
        groups = weight.reshape(kv_heads, each + 2, -1, *weight.shape[1:])
        parts = (groups[:, :-2], groups[:, -2], groups[:, -1])
        return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])

    return view


FAMILY = Family(
    name="falcon",
    title="Falcon",
    classes=("FalconForCausalLM", OLD),
    text=text,
    tested=("onnx",),
)
