"""What goes into a model's matrices, gathered layer by layer: squares and sizes of columns, Gram matrices, experts.

Names are those of the loaded model's parameters: model.layers.3.self_attn.q_proj.weight. A parameter (experts, rows,
columns) holds the matrices of experts; each sees the tokens that the router sends it, and has sums of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch.overrides import TorchFunctionMode

from convert.model.forward import Call, Output
from convert.model.layered import Layer, Layered
from convert.model.memory_needs import GRAM_COLUMNS

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel

PIECE = 4096  # rows of inputs squared in float64 at a time


@dataclass
class Inputs:
    """Of one matrix, or of each of `experts`: sums over the tokens that went in."""

    columns: int
    experts: int = 1
    grams: bool = False
    counts: Tensor = field(init=False)  # int64 (experts,): tokens
    squares: Tensor = field(init=False)  # float64 (experts, columns): sums of squares
    sizes: Tensor = field(init=False)  # float64 (experts, columns): sums of absolute values
    largest: Tensor = field(init=False)  # float32 (experts, columns): largest absolute values
    _gram: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        shape = (self.experts, self.columns)
        self.counts = torch.zeros(self.experts, dtype=torch.int64)
        self.squares, self.sizes = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        self.largest = torch.zeros(shape)

    def add(self, rows: Tensor, expert: int = 0) -> None:
        """Count `rows` (tokens, columns), float32, on the device where they are."""
        self.to(rows.device)
        self.counts[expert] += len(rows)
        for start in range(0, len(rows), PIECE):
            piece = rows[start : start + PIECE]
            sizes = piece.abs()
            torch.maximum(self.largest[expert], sizes.amax(0), out=self.largest[expert])
            wide = sizes.double()
            self.sizes[expert] += wide.sum(0)
            self.squares[expert] += wide.square_().sum(0)
        if self.grams:
            self._add_gram(rows, expert)

    def _add_gram(self, rows: Tensor, expert: int) -> None:
        total = self._gram.get(expert)
        if total is None:
            total = self._gram[expert] = torch.zeros(self.columns, self.columns, device=rows.device)
        for start in range(0, self.columns, GRAM_COLUMNS):
            total[start : start + GRAM_COLUMNS, start:].addmm_(rows[:, start : start + GRAM_COLUMNS].T, rows[:, start:])

    def gram(self, expert: int = 0) -> Tensor:
        """float32 (columns, columns): X^T X / tokens; zeros for an expert that saw none."""
        total = self._gram.get(expert)
        return torch.zeros(self.columns, self.columns) if total is None else self._whole(total.clone(), expert)

    def take_gram(self, expert: int = 0) -> Tensor:
        """The same, given away: there is no second one of it in memory, and none here any more."""
        total = self._gram.pop(expert, None)
        return torch.zeros(self.columns, self.columns) if total is None else self._whole(total, expert)

    def _whole(self, total: Tensor, expert: int) -> Tensor:
        """What was summed, from the diagonal on, divided and mirrored in place."""
        with torch.inference_mode():
            total.div_(max(1, int(self.counts[expert])))
            for start in range(0, self.columns, GRAM_COLUMNS):
                end = start + GRAM_COLUMNS
                corner = total[start:end, start:end].triu()
                total[start:end, start:end] = corner + corner.triu(1).T
                total[end:, start:end] = total[start:end, end:].T
        return total

    def stripes(self, expert: int = 0) -> Tensor:
        """float32 (values,): what was summed of X^T X, GRAM_COLUMNS rows at a time, each from the diagonal on."""
        total = self._gram.get(expert)
        if total is None:
            return torch.zeros(0)
        starts = range(0, self.columns, GRAM_COLUMNS)
        return torch.cat([total[at : at + GRAM_COLUMNS, at:].reshape(-1) for at in starts])

    def set_stripes(self, values: Tensor, expert: int = 0) -> None:
        """Take back what `stripes` gave."""
        total, done = torch.zeros(self.columns, self.columns), 0
        for at in range(0, self.columns, GRAM_COLUMNS):
            rows, columns = min(GRAM_COLUMNS, self.columns - at), self.columns - at
            total[at : at + rows, at:] = values[done : done + rows * columns].view(rows, columns)
            done += rows * columns
        self._gram[expert] = total

    def to(self, device: torch.device) -> None:
        """Take all sums to a device; the counts stay here."""
        if self.squares.device != device:
            self.squares, self.sizes = self.squares.to(device), self.sizes.to(device)
            self.largest = self.largest.to(device)
            self._gram = {expert: total.to(device) for expert, total in self._gram.items()}

    @property
    def finite(self) -> bool:
        """Whether all sums are numbers."""
        return bool(self.squares.isfinite().all())


class GatherInputs:
    """A visitor that hands on, for each layer, what went into its matrices: parameter name -> Inputs.

    `on_layer(layer, inputs)` is called when every pass went through a layer, its weights still there. Matrices that
    are given the same tensor share one Inputs. `wanted` says of a layer whether to look at it, `grams` of a parameter's
    name whether its Gram matrix is kept. `norms` are those of that layer: matrix -> the weight of the norm in front.
    """

    def __init__(
        self,
        model: Layered,
        on_layer: Callable[[Layer, Mapping[str, Inputs]], None],
        wanted: Callable[[Layer], bool] = lambda layer: layer.in_list,
        grams: Callable[[str], bool] = lambda name: False,
        all_experts: bool = False,
    ) -> None:
        self._model, self._on_layer, self._wanted, self._grams = model, on_layer, wanted, grams
        self._all_experts = all_experts
        self.norms: Mapping[str, str] = {}

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, in order."""
        if not self._wanted(layer):
            for call in calls:
                with torch.inference_mode():
                    output = call.run()
                yield output
            return
        listening = Listening(layer, self._grams, self._all_experts)
        for call in calls:
            with torch.inference_mode(), listening.open(self._model.model):
                output = call.run()
            yield output
            del output
        for inputs in listening.found.values():
            inputs.to(torch.device("cpu"))
        self.norms = listening.norms
        self._on_layer(layer, listening.found)


@dataclass
class Listening:
    """Hooks on a layer's matrices while it runs."""

    layer: Layer
    grams: Callable[[str], bool]
    all_experts: bool = False  # each expert sees every token, whatever the router says
    found: dict[str, Inputs] = field(default_factory=dict)
    norms: dict[str, str] = field(default_factory=dict)  # matrix -> the weight of the norm whose output goes into it
    _made: dict[int, tuple[str, Tensor]] = field(default_factory=dict)  # by norms, in this call
    _owner: dict[tuple[int, torch.Size], tuple[Inputs, Tensor]] = field(default_factory=dict)
    _deaf: bool = False  # to experts

    @contextlib.contextmanager
    def open(self, model: PreTrainedModel) -> Iterator[None]:
        """Listen to one call. An input is held until its end: freed memory would soon be another's."""
        experts: list[Experts] = []
        with contextlib.ExitStack() as stack:
            for path, module in self.layer.module.named_modules(prefix=self.layer.name):
                if _is_matrix(module):
                    stack.callback(module.register_forward_pre_hook(partial(self._hear, f"{path}.weight")).remove)
                elif _is_norm(module):
                    stack.callback(module.register_forward_hook(partial(self._hear_norm, f"{path}.weight")).remove)
                elif mine := experts_of(path, module):
                    experts += mine
                    if self.all_experts:
                        show = partial(self._show_all, len(mine[0].parameter))
                        stack.callback(module.register_forward_pre_hook(show).remove)
            if experts:
                stack.enter_context(experts_one_by_one(model))
                stack.enter_context(LinearCalls(partial(self._hear_experts, experts)))
            yield
        self._owner.clear()
        self._made.clear()

    def _hear_norm(self, name: str, _: nn.Module, __: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            self._made[output.data_ptr()] = name, output

    def _show_all(self, count: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Run experts once more, each over every token; while they run as the router says, nobody listens."""
        rows = inputs[0].reshape(-1, inputs[0].shape[-1])
        every = torch.arange(count).expand(len(rows), count)
        self._deaf = False
        module.forward(rows, every, torch.full((len(rows), count), 1 / count))
        self._deaf = True

    def _hear(self, name: str, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if made := self._made.get(inputs[0].data_ptr()):
            self.norms[name] = made[0]
        key = inputs[0].data_ptr(), inputs[0].shape
        if key in self._owner:
            self.found.setdefault(name, self._owner[key][0])
            return
        rows = inputs[0].reshape(-1, inputs[0].shape[-1]).float()
        if name not in self.found:
            self.found[name] = Inputs(rows.shape[1], grams=self.grams(name))
        self.found[name].add(rows)
        self._owner[key] = self.found[name], inputs[0]

    def _hear_experts(self, experts: Sequence[Experts], inputs: Tensor, weight: Tensor, _: Tensor) -> None:
        for one in () if self._deaf else experts:
            number = one.number(weight)
            if number is not None:
                if one.name not in self.found:
                    self.found[one.name] = Inputs(inputs.shape[-1], len(one.parameter), self.grams(one.name))
                self.found[one.name].add(inputs.reshape(-1, inputs.shape[-1]).float(), number)
                return


def _is_matrix(module: nn.Module) -> bool:
    """A linear module of any class: routers have classes of their own."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 2 and not isinstance(module, torch.nn.Embedding)


def _is_norm(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 1


@dataclass(frozen=True)
class Experts:
    """A parameter (experts, rows, columns)."""

    name: str
    parameter: nn.Parameter

    def number(self, weight: Tensor) -> int | None:
        """Which expert's matrix `weight` is; None where it is none of these."""
        offset = weight.data_ptr() - self.parameter.data_ptr()
        size = self.parameter[0].numel() * self.parameter.element_size()
        inside = 0 <= offset < size * len(self.parameter)
        return offset // size if inside and weight.shape == self.parameter.shape[1:] else None


def experts_of(path: str, module: nn.Module) -> list[Experts]:
    """The parameters of a module that hold experts; none of one that holds none."""
    own = module.named_parameters(recurse=False)
    return [Experts(f"{path}.{name}", parameter) for name, parameter in own if parameter.ndim == 3]


@contextlib.contextmanager
def experts_one_by_one(model: PreTrainedModel) -> Iterator[None]:
    """transformers' plain loop over experts, a linear call each, in place of kernels that take all at once."""
    before = model.config._experts_implementation
    model.set_experts_implementation("eager")
    try:
        yield
    finally:
        model.set_experts_implementation(before)


class LinearCalls(TorchFunctionMode):  # type: ignore[misc]  # torch has no types here
    """A context in which `on_call` gets (inputs, weight, output) of every torch.nn.functional.linear."""

    def __init__(self, on_call: Callable[[Tensor, Tensor, Tensor], None]) -> None:
        super().__init__()
        self._on_call = on_call

    def __torch_function__(
        self,
        function: Callable[..., object],
        types: object,
        args: Sequence[Tensor] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        output = function(*args, **(kwargs or {}))
        if function is torch.nn.functional.linear:
            self._on_call(args[0], args[1], cast("Tensor", output))
        return output
