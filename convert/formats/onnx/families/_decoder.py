"""A text model: one graph `model`, from token ids and the cache to logits and the longer cache.

The names of inputs and outputs are those that Optimum and transformers.js use. Which of them there are is up to the
model: one that counts positions itself takes no position_ids, and the cache is whatever transformers' is (past.py).
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from convert.formats.onnx.families import GraphCut, Input, TracedGraph
from convert.formats.onnx.hollow import hollow, layout_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn
    from transformers import PretrainedConfig

    from convert.formats.onnx.past import Layout

# Example sizes: none is 0 or 1, which tracing takes for constants, and no two are equal.
BATCH, SEQUENCE, PAST = 2, 3, 5
CACHES = ("past_key_values", "cache_params")  # what a model calls its cache


def parts(config: PretrainedConfig) -> list[TracedGraph]:
    """The one graph of a text model."""
    model = hollow(config, AutoModelForCausalLM)
    takes = inspect.signature(model.forward).parameters
    ids = Input(torch.zeros(BATCH, SEQUENCE, dtype=torch.long), {0: "batch", 1: "sequence"})
    tokens = {"input_ids": ids, **{name: given for name, given in position_inputs().items() if name in takes}}
    cache = next(name for name in CACHES if name in takes)
    layout = layout_of(model, first_step(tokens), cache)
    return [
        TracedGraph(
            "model",
            Decoder(model, tuple(tokens), cache, layout),
            {**tokens, **cache_inputs(layout)},
            ("logits", *cache_outputs(layout)),
            {"logits": {0: "batch", 1: "sequence"}, **cache_axes(layout)},
            frozenset(one.output for one in layout.tensors if one.grows),
            {f"model.{name}": name for name, _ in model.named_parameters(remove_duplicate=False)},
        )
    ]


class Decoder(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """transformers' model as a function of its inputs alone."""

    def __init__(self, model: nn.Module, takes: Sequence[str], cache: str, layout: Layout) -> None:
        super().__init__()
        self.model = model
        self._takes, self._cache, self._layout = tuple(takes), cache, layout

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(self._takes, tensors, strict=False))
        cache = self._layout.past(tensors[len(given) :])
        given = self.prepared(given, tensors[0].shape[1])
        logits = self.model(**given, **{self._cache: cache}, use_cache=True).logits
        return logits, *self._layout.present(cache)

    def prepared(self, given: dict[str, Tensor], length: int) -> dict[str, Tensor]:
        """What the model is given of the inputs for `length` tokens: where it has states alone, the mask of these."""
        if self._layout.grows or "attention_mask" not in given:
            return given
        return {**given, "attention_mask": given["attention_mask"][:, -length:]}


def first_step(tokens: dict[str, Input]) -> dict[str, Tensor]:
    """The inputs of a step with nothing before it."""
    given = {name: one.example for name, one in tokens.items()}
    return given | {name: mask[:, :SEQUENCE] for name, mask in given.items() if name == "attention_mask"}


def position_inputs() -> dict[str, Input]:
    """attention_mask and position_ids."""
    positions = torch.arange(PAST, PAST + SEQUENCE).expand(BATCH, SEQUENCE).clone()
    return {
        "attention_mask": Input(torch.ones(BATCH, PAST + SEQUENCE, dtype=torch.long), {0: "batch", 1: "total"}),
        "position_ids": Input(positions, {0: "batch", 1: "sequence"}),
    }


def cache_inputs(layout: Layout) -> dict[str, Input]:
    """past_key_values.0.key, past_key_values.0.value, ..., and the states there are."""
    made = {}
    for one in layout.tensors:
        shape = [PAST if one.grows and axis == 1 else size for axis, size in enumerate(one.shape)]
        axes = {0: "batch", 2: "past"} if one.grows else {0: "batch"}
        made[one.input] = Input(torch.zeros(BATCH, *shape), axes, half=one.grows)
    return made


def cache_outputs(layout: Layout) -> list[str]:
    """present.0.key, present.0.value, ..."""
    return [one.output for one in layout.tensors]


def cache_axes(layout: Layout) -> dict[str, dict[int, str]]:
    """The names of the axes of the outputs."""
    return {one.output: {0: "batch", 2: "total"} if one.grows else {0: "batch"} for one in layout.tensors}


CUT = GraphCut(parts)
