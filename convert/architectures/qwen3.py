"""Qwen3: a norm on every query and key head, heads of their own size, no biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convert.architectures._config import Config
from convert.architectures._decoder import (
    MLP,
    QUERY_KEY,
    QUERY_KEY_NORM,
    decoder_part,
    head_size_fields,
    read_decoder,
)
from convert.architectures._part import Part

CLASSES = ("Qwen3ForCausalLM",)


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(Config({"head_dim": 128, **values}, config.where, config.problems))
    if config.flag("attention_bias"):
        config.complain("attention_bias", True, "false", "llama.cpp's qwen3 graph has no output bias")
    fields = head_size_fields(decoder, "qwen3")
    return decoder_part(decoder, "qwen3", (*MLP, *QUERY_KEY, *QUERY_KEY_NORM), fields)
