"""Gemma 3: norms on queries and keys, windows with frequencies of their own, every sixth layer sees everything."""

from __future__ import annotations

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import GELU_TANH, Decoder, Graph, decoder_spec, head_size_fields, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec
from convert.architectures._rope import Rotary, sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM
from convert.architectures._window import sliding_layers
from convert.architectures.gemma2 import NORMS, check_scale
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph(
    "gemma3",
    activations=GELU_TANH,
    activation="hidden_activation",
    rotary=Rotary(("linear",), theta=1e6),
    windowed=True,
    tied=True,
)
DEFAULTS = {  # transformers' own, which the text configs of models with vision leave out
    "vocab_size": 262208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
}
LAYERS_OF_27B = 62
PATTERN = 6  # llama.cpp's where the file has none


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's gemma3 graph has no biases")
    config.require("use_bidirectional_attention", False, "llama.cpp's gemma3 graph looks back only")
    if config.has("attn_logit_softcapping"):
        got = config.values["attn_logit_softcapping"]
        config.complain("attn_logit_softcapping", got, "none", "llama.cpp's gemma3 graph caps no scores")
    check_scale(decoder, LAYERS_OF_27B)
    fields = [*head_size_fields(decoder), *_window_fields(decoder)]
    if config.has("final_logit_softcapping"):
        fields.append(Field.float32("gemma3.final_logit_softcapping", config.number("final_logit_softcapping")))
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *MLP), fields, {"norm": PLUS_ONE})


def _window_fields(decoder: Decoder) -> list[Field]:
    """The window, the frequencies in it, and which layers have one where llama.cpp would take others."""
    config, layers = decoder.config, decoder.layers
    pattern = sliding_layers(config, layers, PATTERN)
    fields = [
        Field.uint32("gemma3.attention.sliding_window", config.size("sliding_window", 4096, MAX_CONTEXT)),
        Field.float32("gemma3.rope.freq_base_swa", sliding_theta(config, 10000.0)),
    ]
    if pattern != tuple((layer + 1) % PATTERN > 0 for layer in range(layers)):
        fields.append(Field.booleans("gemma3.attention.sliding_window_pattern", pattern))
    return fields


FAMILY = Family(
    name="gemma3",
    title="Gemma 3",
    classes=("Gemma3ForCausalLM",),
    text=text,
    tested=("onnx",),
)
