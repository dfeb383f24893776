"""Llama and what has its layers (Mistral, TinyLlama, Yi, SmolLM …): one graph in llama.cpp, `llama`."""

from __future__ import annotations

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._embedder import without_head
from convert.architectures._family import EMBEDDINGS, Family
from convert.architectures._graph_spec import GraphSpec, TensorRule, Transform, View
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS, biases
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("llama", rotary=Rotary(("linear", "yarn", "llama3")))
EMBEDDERS = ("LlamaModel",)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = without_head(Config(values), EMBEDDERS)
    decoder = read_decoder(config, GRAPH)
    rows = layer_rows(config)
    fields = [
        *head_size_fields(decoder),
        Field.uint32("llama.vocab_size", decoder.vocab),
        Field.uint32("llama.rope.dimension_count", decoder.head_dim),
    ]
    return decoder_spec(decoder, rows, fields, side_by_side(decoder))


def layer_rows(config: Config) -> list[TensorRule]:
    """Llama's tensors, with the biases that the config says there are."""
    rows: list[TensorRule] = [*ENDS, *NORMS, *ATTENTION, *MLP]
    if config.flag("attention_bias"):
        rows += biases(ATTENTION)
    if config.flag("mlp_bias"):
        rows += biases(MLP)
    return rows


def side_by_side(decoder: Decoder) -> dict[str, Transform]:
    """The transforms of q_proj and k_proj in graphs that turn neighbours; see `pairs_together`."""
    return {"q": Transform(pairs_together(decoder.heads)), "k": Transform(pairs_together(decoder.kv_heads))}


def pairs_together(heads: int) -> View:
    """A view of q_proj or k_proj with the two values that rotate together side by side, as `llama` wants them.

    transformers rotates value j of a head with value j + head_dim / 2; llama.cpp's `llama` graph rotates 2j with
    2j + 1. Rows of a head are therefore dealt out: 0, half, 1, half + 1, ...
    """

    def view(weight: np.ndarray) -> np.ndarray:
        halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2)

    return view


FAMILY = Family(
    name="llama",
    title="Llama and what has its layers (Mistral, TinyLlama, Yi, SmolLM …)",
    classes=(
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "LLaMAForCausalLM",
        "IQuestCoderForCausalLM",
        "VLlama3ForCausalLM",
        *EMBEDDERS,
    ),
    text=text,
    gives=dict.fromkeys(EMBEDDERS, EMBEDDINGS),
    renames=(("model.text_model.", "model."),),
    tested=("gptq", "onnx"),
)
