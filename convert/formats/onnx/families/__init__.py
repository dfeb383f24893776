"""One file per model family whose export is more than one decoder graph; `_decoder.py` serves all others.

A family is a module named as config.json's `model_type` with

    parts(config) -> list[TracedGraph]     every graph of the model, the one that gives logits first

`config` is transformers' config object. The modules of the parts hold parameters without memory (see `hollow.py`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Input:
    """An example of an input, and the names of its axes that change from call to call."""

    example: torch.Tensor
    axes: Mapping[int, str]  # {0: "batch", 1: "sequence"}
    half: bool = False  # follows the graph's 16-bit type where it has one: the key-value cache


@dataclass(frozen=True)
class TracedGraph:
    """One graph: what is traced, and what its inputs and outputs are called."""

    name: str  # the file's stem: model, decoder_model_merged, embed_tokens, vision_encoder
    module: torch.nn.Module  # called with the inputs in order; gives a tuple of outputs
    inputs: Mapping[str, Input]
    outputs: Sequence[str]
    output_axes: Mapping[str, Mapping[int, str]] = field(default_factory=dict)  # where tracing gives no better name
    half_outputs: frozenset[str] = frozenset()  # follow the graph's 16-bit type, as the cache's inputs do
    parameters: Mapping[str, str] = field(default_factory=dict)  # name in the module -> name in the whole model's


class Family(Protocol):
    """The shape of a family module."""

    def parts(self, config: Any) -> list[TracedGraph]: ...


def names() -> list[str]:
    """Every model_type there is a file for."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(model_type: str) -> Family:
    """The module of a model_type; the plain decoder's where there is none."""
    return cast(Family, importlib.import_module(f"{__name__}.{model_type if model_type in names() else '_decoder'}"))
