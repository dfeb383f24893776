"""Tiny checkpoints of models with experts: what makes a router choose, and the names that experts have on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests import tiny
from tests.parity.build import SHARP, Hub, Tensors

SCALES: Mapping[str, float] = {
    **SHARP,
    "q_norm.weight": 6,
    "gate.weight": 8,
    "experts.gate_up_proj": 2,
    "experts.down_proj": 4,
}
"""Of most of them: routers that choose, and experts that matter."""

MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def corrected(bias: str, router: str = ".mlp.gate.weight", hub: Hub = tiny.hub_tensors) -> Hub:
    """`hub`, and beside every router a float32 bias on the choice of experts called `bias`, whole but for its layer.

    In transformers it is a buffer, which no parameter of a model names.
    """

    def tensors(name: str, values: Any) -> Tensors:
        import torch

        made = hub(name, values)
        if name.endswith(router):
            made[name.removesuffix(router) + bias] = torch.linspace(-0.3, 0.3, len(values))
        return made

    return tensors


def renamed(hub: Hub, *names: tuple[str, str]) -> Hub:
    """`hub`, and pieces of the names that it gives replaced."""

    def tensors(name: str, values: Any) -> Tensors:
        made = hub(name, values)
        for old, new in names:
            made = {key.replace(old, new): value for key, value in made.items()}
        return made

    return tensors
