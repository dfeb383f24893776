"""InternLM 2 and 2.5: Llama's layers under other names; the queries, key and value of a group in one matrix."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._packed import Cut, qkv_apart
from convert.architectures._rope import Rotary, without_dynamic
from convert.architectures._rows import B
from convert.json_types import JsonObject

GRAPH = Graph("internlm2", default_epsilon=1e-6, rotary=Rotary(("linear",)), square=True)
L = "model.layers.{i}"
ROWS: tuple[TensorRule, ...] = (
    ("model.tok_embeddings.weight", "token_embd.weight", ("vocab", "hidden")),
    ("model.norm.weight", "output_norm.weight", ("hidden",)),
    (f"{L}.attention_norm.weight", f"{B}.attn_norm.weight", ("hidden",)),
    (f"{L}.ffn_norm.weight", f"{B}.ffn_norm.weight", ("hidden",)),
    (f"{L}.attention.wo.weight", f"{B}.attn_output.weight", ("hidden", "q")),
    (f"{L}.feed_forward.w1.weight", f"{B}.ffn_gate.weight", ("ffn", "hidden")),
    (f"{L}.feed_forward.w3.weight", f"{B}.ffn_up.weight", ("ffn", "hidden")),
    (f"{L}.feed_forward.w2.weight", f"{B}.ffn_down.weight", ("hidden", "ffn")),
)
HEAD: TensorRule = ("output.weight", "output.weight", ("vocab", "hidden"))


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config, notes = without_dynamic(Config(values))
    decoder = read_decoder(config, GRAPH)
    config.require("bias", False, "llama.cpp's internlm2 graph has none behind attention")
    config.require("tie_word_embeddings", False, "llama.cpp's internlm2 graph wants a head of its own")
    packed = qkv_apart(decoder, f"{L}.attention.wqkv.weight", _groups(decoder.kv_heads, decoder.head_dim))
    return decoder_spec(decoder, ROWS, extra=Extra(head=HEAD, tensors=packed, notes=notes))


def _groups(groups: int, head_dim: int) -> Cut:
    """Of a matrix that has the queries of the first group, its key, its value, then those of the next."""

    def cut(weight: np.ndarray, number: int) -> np.ndarray:
        heads = weight.reshape(groups, -1, head_dim, weight.shape[-1])
        return heads[:, :-2] if number == 0 else heads[:, number - 3]

    return cut


FAMILY = Family(
    name="internlm2",
    title="InternLM 2 and 2.5",
    classes=("InternLM2ForCausalLM",),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
