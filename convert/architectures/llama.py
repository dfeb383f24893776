"""Llama 1 to 3 and Mistral: one graph in llama.cpp, `llama`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from convert.architectures._config import Config
from convert.architectures._decoder import (
    MLP,
    MLP_BIAS,
    OUTPUT_BIAS,
    QUERY_KEY,
    QUERY_KEY_BIAS,
    VALUE_BIAS,
    decoder_part,
    head_size_fields,
    read_decoder,
)
from convert.architectures._part import Part, Row, View
from convert.gguf.fields import Field

CLASSES = ("LlamaForCausalLM", "MistralForCausalLM")


def text(values: Mapping[str, Any]) -> Part:
    """The language model. Raises PlanError with every problem of the config."""
    config = Config(values)
    decoder = read_decoder(config, ("linear", "yarn", "llama3"))
    rows: list[Row] = [*MLP, *QUERY_KEY]
    if config.flag("attention_bias"):
        rows += [*QUERY_KEY_BIAS, *VALUE_BIAS, *OUTPUT_BIAS]
    if config.flag("mlp_bias"):
        rows += MLP_BIAS
    fields = [
        *head_size_fields(decoder, "llama"),
        Field.uint32("llama.vocab_size", decoder.vocab),
        Field.uint32("llama.rope.dimension_count", decoder.head_dim),
    ]
    views = {"q": pairs_together(decoder.heads), "k": pairs_together(decoder.kv_heads)}
    return decoder_part(decoder, "llama", rows, fields, views)


def pairs_together(heads: int) -> View:
    """A view of q_proj or k_proj with the two values that rotate together side by side, as `llama` wants them.

    transformers rotates value j of a head with value j + head_dim / 2; llama.cpp's `llama` graph rotates 2j with
    2j + 1. Rows of a head are therefore dealt out: 0, half, 1, half + 1, ...
    """

    def view(weight: np.ndarray) -> np.ndarray:
        halves = weight.reshape(heads, 2, len(weight) // heads // 2, *weight.shape[1:])
        return halves.swapaxes(1, 2)

    return view
