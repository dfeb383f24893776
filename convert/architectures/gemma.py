"""Gemma 1: norms that multiply by 1 + weight, a GELU gate, heads of their own size."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, NORMS
from convert.json_types import JsonObject

GRAPH = Graph("gemma", default_epsilon=1e-6, activations=GELU_TANH, rotary=Rotary(("linear",)), tied=True)
ROWS = (*ENDS, *NORMS, *ATTENTION, *MLP)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    if values.get("hidden_act") == "gelu":  # in the first configs, and transformers takes the tanh formula for it
        values = {**values, "hidden_act": GELU_TANH[0]}
    config = Config(values).with_defaults(head_dim=256)
    decoder = read_decoder(config, GRAPH)
    if not decoder.tied:
        config.complain("tie_word_embeddings", False, "true", "llama.cpp's gemma graph has no head of its own")
    config.require("attention_bias", False, "llama.cpp's gemma graph has no biases")
    config.require("use_bidirectional_attention", False, "llama.cpp's gemma graph looks back only")
    return decoder_spec(decoder, ROWS, head_size_fields(decoder), {"norm": PLUS_ONE})


FAMILY = Family(
    name="gemma",
    title="Gemma 1",
    classes=("GemmaForCausalLM",),
    text=text,
    tested=("onnx",),
)
