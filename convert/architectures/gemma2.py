"""Gemma 2: four norms a layer, each times 1 + weight; capped scores and logits; a window in every other layer."""

from __future__ import annotations

from convert.architectures._config import Config
from convert.architectures._decoder import GELU_TANH, Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec, TensorRule
from convert.architectures._rope import Rotary
from convert.architectures._rows import ATTENTION, ENDS, MLP, B, L
from convert.architectures._window import require_every
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "gemma2", activations=GELU_TANH, activation="hidden_activation", rotary=Rotary(()), windowed=True, tied=True
)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.input_layernorm.weight", f"{B}.attn_norm.weight", ("hidden",), "norm"),
    (f"{L}.post_attention_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",), "norm"),
    (f"{L}.pre_feedforward_layernorm.weight", f"{B}.ffn_norm.weight", ("hidden",), "norm"),
    (f"{L}.post_feedforward_layernorm.weight", f"{B}.post_ffw_norm.weight", ("hidden",), "norm"),
)
LAYERS_OF_27B = 46


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(head_dim=256, sliding_window=4096)
    decoder = read_decoder(config, GRAPH)
    if not decoder.tied:
        config.complain("tie_word_embeddings", False, "true", "llama.cpp's gemma2 graph has no head of its own")
    config.require("attention_bias", False, "llama.cpp's gemma2 graph has no biases")
    check_scale(decoder, LAYERS_OF_27B)
    fields = [
        *head_size_fields(decoder),
        Field.float32("gemma2.attn_logit_softcapping", config.number("attn_logit_softcapping")),
        Field.float32("gemma2.final_logit_softcapping", config.number("final_logit_softcapping")),
        Field.uint32("gemma2.attention.sliding_window", require_every(config, decoder.layers, 2)),
    ]
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields, {"norm": PLUS_ONE})


def check_scale(decoder: Decoder, layers_of_27b: int) -> None:
    """Add a problem unless queries are scaled as llama.cpp does it (models/gemma2.cpp, gemma3.cpp): by the head size,
    but by hidden size / heads in the model of 27 billion weights."""
    big = decoder.layers == layers_of_27b
    scale = decoder.hidden // decoder.heads if big else decoder.head_dim
    if decoder.config.number("query_pre_attn_scalar", 256) != scale:
        got = decoder.config.values.get("query_pre_attn_scalar")
        why = f"llama.cpp's {decoder.graph.name} graph has no other"
        decoder.config.complain("query_pre_attn_scalar", got, str(scale), why)


FAMILY = Family(
    name="gemma2",
    title="Gemma 2",
    classes=("Gemma2ForCausalLM",),
    text=text,
    tested=("onnx",),
)
