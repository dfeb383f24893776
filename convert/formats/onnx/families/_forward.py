"""A whole model of transformers as a function of its inputs alone."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn


class Forward(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """Calls the model with its inputs by name, and gives those of its outputs that are asked for."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        made = self.model(**dict(zip(self.inputs, tensors, strict=True)), return_dict=True)
        return tuple(made[name] for name in self.outputs)


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model's forward has a parameter of that name."""
    return name in inspect.signature(model.forward).parameters


def parameter_names(here: str, module: nn.Module, there: str = "") -> dict[str, str]:
    """Name in a part -> name in the whole model, of the parameters of a module that is called `there` in it."""
    outer = f"{there}." if there else ""
    return {f"{here}.{name}": f"{outer}{name}" for name, _ in module.named_parameters(remove_duplicate=False)}
