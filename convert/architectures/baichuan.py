"""Baichuan 1 and 2: query, key and value in one matrix; the 7B turns them, the 13B has a slope on its scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Extra, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform
from convert.architectures._packed import Cut, qkv_apart
from convert.architectures._rope import Rotary
from convert.architectures._rows import ENDS, HEAD, MLP, NORMS, OUTPUT, L
from convert.architectures.xverse import LAYOUT
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("baichuan", default_epsilon=1e-6, rotary=Rotary(()), square=True, grouped=False)
LAYERS = {32: GRAPH, 40: replace(GRAPH, rotary=None)}  # llama.cpp knows the 7B and the 13B by them
VOCAB_OF_2 = 125696  # by which Baichuan 2 is told from the first


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    if not config.has("max_position_embeddings"):
        config = config.spelled(max_position_embeddings="model_max_length")
    layers = config.size("num_hidden_layers")
    decoder = read_decoder(config, LAYERS.get(layers, GRAPH))
    if layers not in LAYERS:
        why = "llama.cpp's baichuan graph knows by their number whether heads turn or scores have a slope"
        config.complain("num_hidden_layers", layers, " or ".join(map(str, LAYERS)), why)
    config.require("tie_word_embeddings", False, "llama.cpp's baichuan graph wants a head of its own")
    fields = [
        Field.string("baichuan.tensor_data_layout", LAYOUT),
        Field.uint32("baichuan.rope.dimension_count", decoder.head_dim),
    ]
    packed = qkv_apart(decoder, f"{L}.self_attn.W_pack.weight", _thirds(decoder.heads))
    second = decoder.vocab == VOCAB_OF_2 or config.has("z_loss_weight")
    transforms = {"head": Transform(change=unit_rows)} if second else {}
    rows = (*ENDS, *NORMS, *OUTPUT, *MLP)
    head: TensorRule = (HEAD[0], HEAD[1], HEAD[2], "head")
    return decoder_spec(decoder, rows, fields, transforms, Extra(head=head, tensors=packed))


def _thirds(heads: int) -> Cut:
    """Of a matrix that has all queries, all keys, all values."""
    return lambda weight, number: weight.reshape(3, heads, -1, weight.shape[-1])[number]


def unit_rows(weight: np.ndarray) -> np.ndarray:
    """Rows divided by their lengths: Baichuan 2 does that to its head when it is first used (NormHead)."""
    lengths = np.sqrt(np.square(weight, dtype=np.float64).sum(-1, keepdims=True))
    return np.asarray(weight / np.maximum(lengths, 1e-12), np.float32)


FAMILY = Family(
    name="baichuan",
    title="Baichuan 1 and 2",
    classes=("BaichuanForCausalLM", "BaiChuanForCausalLM"),
    text=text,
    graphs="",  # transformers has no class of its own for it
)
