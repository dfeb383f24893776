"""GPT-NeoX and Pythia: q, k and v of each head together in one matrix, attention and MLP side by side."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import GELU, Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, LeftOut, TensorRule, Transform, View
from convert.architectures._rope import Rotary
from convert.architectures._rows import B, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "gptneox",
    layer_norm=True,
    epsilon="layer_norm_eps",
    default_epsilon=1e-5,
    activations=GELU,
    rotary=Rotary(("linear",), partial=0.25),
    grouped=False,
    square=True,
)
SPELLINGS = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}

L = "gpt_neox.layers.{i}"
HEAD: TensorRule = ("embed_out.weight", "output.weight", ("vocab", "hidden"))
NORMS: tuple[TensorRule, ...] = (
    ("gpt_neox.final_layer_norm.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
)
MATRICES: tuple[TensorRule, ...] = (
    (f"{L}.attention.query_key_value.weight", f"{B}.attn_qkv.weight", ("q+kv+kv", "hidden"), "qkv"),
    (f"{L}.attention.dense.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.mlp.dense_h_to_4h.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.mlp.dense_4h_to_h.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
EMBEDDING: TensorRule = ("gpt_neox.embed_in.weight", "token_embd.weight", ("vocab", "hidden"))
MASKS = tuple(LeftOut(name, "a causal mask, not a weight") for name in (".attention.bias", ".attention.masked_bias"))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).spelled(**SPELLINGS)
    decoder = read_decoder(config, GRAPH)
    config.require("tie_word_embeddings", False, "llama.cpp's gptneox graph wants a head of its own")
    config.require("attention_bias", True, "llama.cpp's gptneox graph has biases everywhere")
    fields = [Field.boolean("gptneox.use_parallel_residual", config.flag("use_parallel_residual", True))]
    rows = (EMBEDDING, *NORMS, *MATRICES, *biases(NORMS, MATRICES))
    transforms = {"qkv": Transform(heads_apart(decoder.heads))}
    return decoder_spec(decoder, rows, fields, transforms, Extra(head=HEAD, left_out=MASKS))


def heads_apart(heads: int) -> View:
    """A view of a matrix that has q, k and v of the first head, then those of the next …: all q, all k, all v."""

    def view(weight: np.ndarray) -> np.ndarray:
        return weight.reshape(heads, 3, len(weight) // heads // 3, *weight.shape[1:]).swapaxes(0, 1)

    return view


FAMILY = Family(
    name="gpt_neox",
    title="GPT-NeoX and Pythia",
    classes=("GPTNeoXForCausalLM",),
    text=text,
    renames=(("lm_head.", "embed_out."),),  # transformers 5
    tested=("onnx",),
)
