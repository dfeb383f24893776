"""A text model: one graph `model`, from token ids and the cache to logits and the longer cache.

The names of inputs and outputs are those that Optimum and transformers.js use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from convert.formats.onnx.families import GraphCut, Input, TracedGraph
from convert.formats.onnx.hollow import hollow, past, present

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig

# Example sizes: none is 0 or 1, which tracing takes for constants, and no two are equal.
BATCH, SEQUENCE, PAST = 2, 3, 5


def parts(config: PretrainedConfig) -> list[TracedGraph]:
    """The one graph of a text model."""
    model = hollow(config, AutoModelForCausalLM)
    inputs = {
        "input_ids": Input(torch.zeros(BATCH, SEQUENCE, dtype=torch.long), {0: "batch", 1: "sequence"}),
        **position_inputs(),
        **cache_inputs(config),
    }
    outputs = ("logits", *cache_outputs(config))
    axes = {name: {0: "batch", 2: "total"} for name in cache_outputs(config)}
    return [
        TracedGraph(
            "model",
            Decoder(model),
            inputs,
            outputs,
            {"logits": {0: "batch", 1: "sequence"}, **axes},
            frozenset(cache_outputs(config)),
            {f"model.{name}": name for name, _ in model.named_parameters(remove_duplicate=False)},
        )
    ]


class Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """transformers' model as a function of its inputs alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        cache = past(tensors)
        logits = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
        ).logits
        return logits, *present(cache)


def position_inputs() -> dict[str, Input]:
    """attention_mask and position_ids."""
    positions = torch.arange(PAST, PAST + SEQUENCE).expand(BATCH, SEQUENCE).clone()
    return {
        "attention_mask": Input(torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.long), {0: "batch", 1: "total"}),
        "position_ids": Input(positions, {0: "batch", 1: "sequence"}),
    }


def cache_inputs(config: PretrainedConfig) -> dict[str, Input]:
    """past_key_values.0.key, past_key_values.0.value, ... of a text config."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        f"past_key_values.{layer}.{what}": Input(
            torch.zeros(BATCH, heads, PAST, width), {0: "batch", 2: "past"}, half=True
        )
        for layer in range(config.num_hidden_layers)
        for what in ("key", "value")
    }


def cache_outputs(config: PretrainedConfig) -> list[str]:
    """present.0.key, present.0.value, ..."""
    return [f"present.{layer}.{what}" for layer in range(config.num_hidden_layers) for what in ("key", "value")]


CUT = GraphCut(parts)
