"""What an error in a matrix costs in KL, to second order, gathered one layer in memory at a time.

The diagonal of the Fisher information: for a row r of a matrix F[r] = mean over tokens of (d log p(y) / d output r)^2,
with y drawn from the model itself at every position. Scores of different positions are uncorrelated, so that one
backward pass of their sum does. An embedding's row counts where its token stands.

What goes into the matrix is weighed by how much its token matters: column c has E[|g|^2 x[c]^2] / E[|g|^2], g all of
the token's gradients at the matrix. The first token of a text has inputs of a thousand times the usual size in many
models, and hardly any gradient: plain mean squares would be all about it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from transformers.pytorch_utils import Conv1D

from convert.model.backward import backward
from convert.model.forward import Call, Output
from convert.model.inputs import Experts, LinearCalls, experts_of, experts_one_by_one
from convert.model.layered import Layer, Layered

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

BLOCKS = (32, 256)  # columns that runtimes round together to 8 bits before they multiply
LEVELS = 127


@dataclass
class Weighed:
    """What went into a matrix, or into each of some experts, each token by how much it matters: means."""

    squares: Tensor  # float64 (columns,)
    rounding: dict[int, Tensor]  # by the size of a block: float64 (columns,), squares of what 8 bits a block lose

    def __add__(self, other: Weighed) -> Weighed:
        rounding = {size: self.rounding[size] + more for size, more in other.rounding.items()}
        return Weighed(self.squares + other.squares, rounding)

    def __truediv__(self, by: float) -> Weighed:
        return Weighed(self.squares / by, {size: lost / by for size, lost in self.rounding.items()})


@dataclass
class Fisher:
    """Mean squares of gradients a token, and what went in.

    `rows` and `inputs` are by the name of a linear module, and of a parameter that holds experts and the number of one
    (name[3]); `by_token` by that of an embedding.
    """

    rows: dict[str, Tensor] = field(default_factory=dict)  # float64 (outputs,)
    inputs: dict[str, Weighed] = field(default_factory=dict)
    by_token: dict[str, Tensor] = field(default_factory=dict)  # float64 (vocabulary,)


def fisher(
    model: Layered,
    inputs: Sequence[Mapping[str, Tensor]],
    seed: int = 0,
    on_call: Callable[[int], None] = lambda number: None,
) -> Fisher:
    """The Fisher information's diagonal over `inputs`; y is drawn by `seed` and the number of the input alone."""
    names = {module: name for name, module in model.model.named_modules()}
    gathering = _Gathering(Fisher(), model.model, names, model.model.get_input_embeddings())
    with gathering.beside(model.layers):
        backward(model, inputs, partial(_log_probability, seed), gathering, on_call)
    count = sum(arguments["input_ids"].numel() for arguments in inputs)
    found = gathering.found
    found.inputs = {name: total / max(1e-300, float(found.rows[name].sum())) for name, total in found.inputs.items()}
    for sums in (found.rows, found.by_token):
        sums |= {name: total / count for name, total in sums.items()}
    return found


def _log_probability(seed: int, number: int, output: Output) -> Tensor:
    """The sum over positions of log p(y), y drawn from p."""
    logits = cast("Tensor", output.logits).flatten(0, -2)  # type: ignore[attr-defined]
    log_p = torch.log_softmax(logits.float(), -1)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
    drawn = torch.multinomial(log_p.detach().exp(), 1, generator=generator)
    return log_p.gather(1, drawn).sum()


@dataclass
class _Gathering:
    """Adds up squared gradients at the outputs of linear modules and of experts, and at those of embeddings."""

    found: Fisher
    model: PreTrainedModel
    names: Mapping[nn.Module, str]
    embedding: nn.Module
    _hooks: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    @contextlib.contextmanager
    def beside(self, layers: Sequence[Layer]) -> Iterator[None]:
        """Listen to what belongs to no layer while the block is open: a small embedding, a small head."""
        inside = {module for layer in layers for module in layer.module.modules()}
        with contextlib.ExitStack() as stack:
            for module in self.names.keys() - inside:
                if module is self.embedding:
                    stack.callback(module.register_forward_hook(self._look_up).remove)
                elif isinstance(module, torch.nn.Linear | Conv1D):
                    stack.callback(module.register_forward_hook(self._listen).remove)
            yield

    def before(self, layer: Layer) -> None:
        """Listen to every linear module of the layer, and to its experts."""
        experts: list[Experts] = []
        for path, module in layer.module.named_modules(prefix=layer.name):
            if isinstance(module, torch.nn.Linear | Conv1D):
                self._hooks.callback(module.register_forward_hook(self._listen).remove)
            else:
                experts += experts_of(path, module)
        if experts:
            self._hooks.enter_context(experts_one_by_one(self.model))
            self._hooks.enter_context(LinearCalls(partial(self._listen_to_experts, experts)))

    def after(self, layer: Layer) -> None:
        """Listen no longer."""
        self._hooks.close()

    def _listen(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(partial(self._add, self.names[module], args[0].detach()))

    def _look_up(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        if torch.is_grad_enabled():
            output.requires_grad_().register_hook(partial(self._add_tokens, module, args[0]))

    def _listen_to_experts(self, experts: Sequence[Experts], inputs: Tensor, weight: Tensor, output: Tensor) -> None:
        for one in experts if output.requires_grad else ():
            number = one.number(weight)
            if number is not None:
                output.register_hook(partial(self._add, f"{one.name}[{number}]", inputs.detach()))
                return

    def _add(self, name: str, inputs: Tensor, gradient: Tensor) -> None:
        squares = gradient.detach().double().flatten(0, -2).square_()
        self.found.rows[name] = self.found.rows.get(name, 0) + squares.sum(0).cpu()
        weighed = _weighed(inputs.flatten(0, -2).double(), squares.sum(1))
        self.found.inputs[name] = self.found.inputs[name] + weighed if name in self.found.inputs else weighed

    def call(self, call: Call, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """The embedding's gradients, by token; the head's, whose forward is ours and calls no hook."""
        module = call.layer.module
        if module is self.embedding:
            self._add_tokens(module, cast("Tensor", call.args[0]), gradients[0])
        elif isinstance(module, torch.nn.Linear):
            self._add(call.layer.name, cast("Tensor", call.args[0]).detach(), gradients[0])

    def _add_tokens(self, module: nn.Module, ids: Tensor, gradient: Tensor) -> None:
        total = self.found.by_token.setdefault(
            self.names[module], torch.zeros(len(cast("Tensor", module.weight)), dtype=torch.float64)
        )
        total.index_add_(0, ids.flatten(), gradient.double().flatten(0, -2).square().mean(-1))


def _weighed(rows: Tensor, weights: Tensor) -> Weighed:
    """Sums over tokens: `rows` (tokens, columns) float64, `weights` (tokens,)."""
    squares = rows.square()
    rounding = {n: (weights @ _rounded(squares, n)).cpu() for n in BLOCKS if rows.shape[1] % n == 0}
    return Weighed((weights @ squares).cpu(), rounding)


def _rounded(squares: Tensor, block: int) -> Tensor:
    """(tokens, columns) of squared values the mean squared error of 8 bits a block: a twelfth of the step's square.

    Beside a value a thousand times their size others become 0, and lose themselves, no more.
    """
    steps = squares.view(len(squares), -1, block).amax(-1, keepdim=True) / LEVELS**2
    return torch.minimum((steps / 12).expand(-1, -1, block).reshape(squares.shape), squares)
