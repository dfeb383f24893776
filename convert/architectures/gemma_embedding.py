"""EmbeddingGemma: Gemma 3 whose tokens see those behind them too, in windows that reach both ways."""

from __future__ import annotations

from dataclasses import replace

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, head_size_fields, read_decoder
from convert.architectures._encoder import Encoding, encoder_spec
from convert.architectures._family import EMBEDDINGS, TASK_GRAPH, Family
from convert.architectures._graph_spec import PLUS_ONE, GraphSpec
from convert.architectures._rope import sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, MLP, QK_NORM
from convert.architectures._window import sliding_layers
from convert.architectures.gemma2 import NORMS
from convert.architectures.gemma3 import DEFAULTS, PATTERN
from convert.architectures.gemma3 import GRAPH as GEMMA3
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = replace(GEMMA3, name="gemma-embedding")
NAME = GRAPH.name


def text(values: JsonObject) -> GraphSpec:
    """The encoder. Raises PlanError with every problem of the config."""
    config = Config(values).with_defaults(**DEFAULTS)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's gemma-embedding graph has no biases")
    config.require("use_bidirectional_attention", True, "llama.cpp's gemma-embedding graph looks both ways")
    if config.number("query_pre_attn_scalar", decoder.head_dim) != decoder.head_dim:
        got = config.values.get("query_pre_attn_scalar")
        config.complain("query_pre_attn_scalar", got, f"head_dim, {decoder.head_dim}", "llama.cpp divides by its root")
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.has(key):
            config.complain(key, config.values[key], "none", "llama.cpp's gemma-embedding graph caps nothing")
    encoding = Encoding([*head_size_fields(decoder), *_window_fields(decoder)], {"norm": PLUS_ONE}, causal=None)
    return encoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *QK_NORM, *MLP), encoding)


def _window_fields(decoder: Decoder) -> list[Field]:
    """Both sides of the window, its frequencies, and which layers have one where llama.cpp would take others."""
    config, layers = decoder.config, decoder.layers
    pattern = sliding_layers(config, layers, PATTERN)
    fields = [
        Field.uint32(f"{NAME}.attention.sliding_window", config.size("sliding_window", 4096, MAX_CONTEXT)),
        Field.float32(f"{NAME}.rope.freq_base_swa", sliding_theta(config, 10000.0)),
    ]
    if pattern != tuple((layer + 1) % PATTERN > 0 for layer in range(layers)):
        fields.append(Field.booleans(f"{NAME}.attention.sliding_window_pattern", pattern))
    return fields


FAMILY = Family(
    name="gemma_embedding",
    title="EmbeddingGemma",
    classes=("Gemma3TextModel",),
    text=text,
    gives={"Gemma3TextModel": EMBEDDINGS},
    graphs=TASK_GRAPH,
)
