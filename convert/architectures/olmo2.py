"""OLMo 2 and 3: norms behind attention and MLP, and over all queries or keys at once; windows in OLMo 3."""

from __future__ import annotations

from collections.abc import Iterator

from convert.architectures._config import MAX_CONTEXT, Config
from convert.architectures._decoder import Decoder, Graph, decoder_spec, read_decoder
from convert.architectures._family import Family
from convert.architectures._graph_spec import GraphSpec, TensorRule
from convert.architectures._rope import sliding_theta
from convert.architectures._rows import ATTENTION, ENDS, MLP, B, L
from convert.architectures._window import sliding_layers
from convert.gguf_field import Field
from convert.json_types import JsonObject

GRAPH = Graph("olmo2", default_epsilon=1e-5, square=True, windowed=True)
NORMS: tuple[TensorRule, ...] = (
    (f"{L}.self_attn.q_norm.weight", f"{B}.attn_q_norm.weight", ("q",)),
    (f"{L}.self_attn.k_norm.weight", f"{B}.attn_k_norm.weight", ("kv",)),
    (f"{L}.post_attention_layernorm.weight", f"{B}.post_attention_norm.weight", ("hidden",)),
    (f"{L}.post_feedforward_layernorm.weight", f"{B}.post_ffw_norm.weight", ("hidden",)),
)


def text(values: JsonObject) -> GraphSpec:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, GRAPH)
    config.require("attention_bias", False, "llama.cpp's olmo2 graph has no biases")
    config.require("tie_word_embeddings", False, "llama.cpp's olmo2 graph wants a head of its own")
    fields = list(_window_fields(decoder)) if config.has("sliding_window") or config.has("layer_types") else []
    return decoder_spec(decoder, (*ENDS, *NORMS, *ATTENTION, *MLP), fields)


def _window_fields(decoder: Decoder) -> Iterator[Field]:
    """YaRN is for layers without a window only, in llama.cpp (models/olmo2.cpp) as in transformers."""
    config, theta = decoder.config, decoder.rope.theta if decoder.rope else 0.0
    yield Field.uint32("olmo2.attention.sliding_window", config.size("sliding_window", 4096, MAX_CONTEXT))
    pattern = sliding_layers(config, decoder.layers, 4)
    yield Field.booleans("olmo2.attention.sliding_window_pattern", pattern)
    yield Field.float32("olmo2.rope.freq_base_swa", theta)
    if (local := sliding_theta(config, theta)) != theta:
        config.complain("rope_theta of layers with a window", local, f"{theta:g}", "llama.cpp has one for all layers")


FAMILY = Family(
    name="olmo2",
    title="OLMo 2 and 3",
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    text=text,
)
