"""Qwen2 and Qwen2.5: biases on query, key and value, always."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import (
    MLP,
    QUERY_KEY,
    QUERY_KEY_BIAS,
    VALUE_BIAS,
    decoder_part,
    read_decoder,
    require_square,
)
from convert.architectures._part import Part

CLASSES = ("Qwen2ForCausalLM",)


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config)
    require_square(decoder)
    rows = (*MLP, *QUERY_KEY, *QUERY_KEY_BIAS, *VALUE_BIAS)
    return decoder_part(decoder, "qwen2", rows)
