"""The language model inside a model with vision: its config is under text_config, its family is another file's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from convert.architectures import gemma3, llama, qwen2, qwen3
from convert.architectures._config import Config
from convert.architectures._graph_spec import GraphSpec
from convert.json_types import JsonDict, JsonObject
from convert.source import quantized

Text = Callable[[JsonObject], GraphSpec]
TEXTS: Mapping[str, Text] = {
    "llama": llama.text,
    "mistral": llama.text,
    "qwen2": qwen2.text,
    "qwen3": qwen3.text,
    "gemma3_text": gemma3.text,
}

_LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
}
DEFAULTS: Mapping[str, JsonObject] = {  # transformers' own, which older checkpoints do not repeat
    "llama": _LLAMA_7B,
    "mistral": {
        **_LLAMA_7B,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 4096 * 32,
        "sliding_window": 4096,
    },
    "qwen2": {
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "vocab_size": 151936,
    },
}


def text_values(values: JsonObject, kind: str = "") -> JsonDict:
    """The text model's config: its own words, then transformers' defaults of its model_type.

    transformers ties the embedding when either level of the config says so.
    """
    root = Config(values)
    inner = dict(root.sub("text_config").values)
    kind = kind or str(inner.get("model_type"))
    defaults = dict(DEFAULTS.get(kind, {}))
    if "sliding_window" in inner:
        defaults.pop("sliding_window", None)  # null is "none" there
    given = {key: value for key, value in inner.items() if value is not None or key not in defaults}
    if not root.flag("tie_word_embeddings"):
        return {**defaults, **given}
    return {**defaults, **given, "tie_word_embeddings": True}


def inner_config(values: JsonObject) -> Config:
    """The config of a text model that is also there without towers: what is under text_config, or all there is."""
    root = Config(values)
    inner = root.sub("text_config")
    if not inner.values:
        return root
    tied = {"tie_word_embeddings": True} if root.flag("tie_word_embeddings") else {}
    also = {key: root.values[key] for key in ("quantization_config",) if root.has(key)}
    return Config({**inner.values, **also, **tied}, inner.where, inner.problems)


def nested_text(values: JsonObject, kind: str = "", texts: Mapping[str, Text] = TEXTS) -> GraphSpec:
    """The GraphSpec of the text model under text_config; `kind` is its model_type where the config is silent.

    Raises PlanError for a text model that is not one of `texts`, and with every problem of its config.
    """
    root = Config(values)
    found = root.sub("text_config").word(
        "model_type", kind or next(iter(texts)), tuple(texts), "no other is known here"
    )
    root.flag("tie_word_embeddings")
    if root.has("quantization_config"):
        root.problems.append(quantized.problem(root.values["quantization_config"], root.where))
    root.finish()
    return texts[found](text_values(values, found))
