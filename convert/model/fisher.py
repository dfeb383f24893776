"""The diagonal of the Fisher information at the outputs of a model's matrices, one layer in memory at a time.

For a row r of a matrix F[r] = mean over tokens of (d log p(y) / d output r)^2, with y drawn from the model itself at
every position: what an error in that output costs in KL, to second order. Scores of different positions are
uncorrelated, so that one backward pass of their sum does. An embedding's row counts where its token stands.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from transformers.pytorch_utils import Conv1D

from convert.model.backward import backward
from convert.model.forward import Call, Output
from convert.model.layered import Layer, Layered

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass
class Fisher:
    """Mean squares of gradients a token: `rows` by the name of a linear module, `tokens` by that of an embedding."""

    rows: dict[str, Tensor] = field(default_factory=dict)  # float64 (outputs,)
    by_token: dict[str, Tensor] = field(default_factory=dict)  # float64 (vocabulary,)


def fisher(
    model: Layered,
    inputs: Sequence[Mapping[str, Tensor]],
    seed: int = 0,
    on_call: Callable[[int], None] = lambda number: None,
) -> Fisher:
    """The Fisher information's diagonal over `inputs`; y is drawn by `seed` and the number of the input alone."""
    names = {module: name for name, module in model.model.named_modules()}
    gathering = _Gathering(Fisher(), names, model.model.get_input_embeddings())
    backward(model, inputs, partial(_log_probability, seed), gathering, on_call)
    count = sum(arguments["input_ids"].numel() for arguments in inputs)
    for sums in (gathering.found.rows, gathering.found.by_token):
        sums |= {name: total / count for name, total in sums.items()}
    return gathering.found


def _log_probability(seed: int, number: int, output: Output) -> Tensor:
    """The sum over positions of log p(y), y drawn from p."""
    logits = cast("Tensor", output.logits).flatten(0, -2)  # type: ignore[attr-defined]
    log_p = torch.log_softmax(logits.float(), -1)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
    return log_p.gather(1, drawn).sum()


@dataclass
class _Gathering:
    """Adds up squared gradients at the outputs of linear modules, and at those of embeddings."""

    found: Fisher
    names: Mapping[nn.Module, str]
    embedding: nn.Module
    _hooks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def before(self, layer: Layer) -> None:
        """Listen to every linear module of the layer."""
        for module in layer.module.modules():
            if isinstance(module, torch.nn.Linear | Conv1D):
                self._hooks.callback(module.register_forward_hook(self._listen).remove)

    def after(self, layer: Layer) -> None:
        """Listen no longer."""
        self._hooks.close()

    def _listen(self, module: nn.Module, _: object, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._add, self.names[module]))

    def _add(self, name: str, gradient: Tensor) -> None:
        squares = gradient.detach().double().flatten(0, -2).square_().sum(0).cpu()
        self.found.rows[name] = self.found.rows.get(name, 0) + squares

    def call(self, call: Call, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The embedding's gradients, by token; the head's, whose forward is ours and calls no hook."""
        module = call.layer.module
        if module is self.embedding:
            ids = cast("Tensor", call.args[0])
            total = self.found.by_token.setdefault(
                call.layer.name, torch.zeros(len(cast("Tensor", module.weight)), dtype=torch.float64)
            )
            total.index_add_(0, ids.flatten(), gradients[0].double().flatten(0, -2).square().mean(-1))
        elif isinstance(module, torch.nn.Linear):
            self._add(call.layer.name, gradients[0])
