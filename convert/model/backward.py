"""Gradients through a model one layer at a time: the weights are read once forwards and once backwards.

On the way forward what goes into each layer is kept (in files, beyond a budget); on the way back each layer is run
again with gradients, from the last to the first. What a model does between its layers is recorded by autograd as it is
written. Nothing is trained: gradients go through activations, weights get none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch.utils._pytree import tree_flatten, tree_map

from convert.model.forward import Call, Output
from convert.model.layered import Layer, Layered

if TYPE_CHECKING:
    from torch import Tensor


class GradientVisitor(Protocol):
    """Who looks at a layer while it is run backwards."""

    def before(self, layer: Layer) -> None:
        """The layer's weights are there; calls of it follow."""

    def after(self, layer: Layer) -> None:
        """All passes went through."""

    def call(self, call: Call, outputs: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """A layer's outputs in one pass, and the gradient of each, before they go into the layer."""


@dataclass
class _Record:
    call: Call
    leaves: list[Tensor]  # what the layer gave, where gradients gather


@dataclass
class _Recorder:
    """Runs each layer without gradients, and keeps what it was called with."""

    keep: Callable[[object], object]
    visits: list[tuple[Layer, list[_Record]]] = field(default_factory=list)

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, its tensors leaves of a graph that begins anew."""
        records: list[_Record] = []
        self.visits.append((layer, records))
        for call in calls:
            with torch.no_grad():
                output = tree_map(_leaf, self.keep(_detached(call).run()))
            records.append(_Record(call, _floats(output)))
            yield output


def backward(
    model: Layered,
    inputs: Sequence[Mapping[str, Tensor]],
    loss: Callable[[int, Output], Tensor],
    visitor: GradientVisitor,
    on_call: Callable[[int], None] = lambda number: None,
) -> None:
    """Show `visitor` the gradients of each input's `loss` (number of the input, the model's output) at every layer.

    `on_call` is told of an input's number whenever it went through a layer, forwards or backwards.
    """
    recorder = _Recorder(model.keep)
    for number, output in model.run(inputs, recorder, on_call, gradients=True):
        loss(number, output).backward()
        del output
        layer, records = recorder.visits[-1]
        if not layer.in_list and records[-1].call.number == number:  # the head: its gradients are as large as logits
            visitor.before(layer)
            _back(records.pop(), visitor)
            visitor.after(layer)
    while recorder.visits:
        layer, records = recorder.visits.pop()
        if not records:
            continue
        with model.weights.loaded(layer.name):
            visitor.before(layer)
            while records:
                number = records[-1].call.number
                _back(records.pop(), visitor)
                on_call(number)
            visitor.after(layer)


def _back(record: _Record, visitor: GradientVisitor) -> None:
    """Take the gradients of a layer's outputs to its inputs, and on to the layers that these come from."""
    wanted = [(place, leaf) for place, leaf in enumerate(record.leaves) if leaf.grad is not None]
    if not wanted:
        return
    gradients = [cast("Tensor", leaf.grad) for _, leaf in wanted]
    call = _detached(record.call, trace=True)
    with torch.enable_grad():
        every = _floats(call.run())
        outputs = [every[place] for place, _ in wanted]
        visitor.call(call, outputs, gradients)
        traced = [(o, g) for o, g in zip(outputs, gradients, strict=True) if o.requires_grad]
        if traced:
            torch.autograd.backward(*zip(*traced, strict=True))
    for leaf in record.leaves:
        leaf.grad = None
    _hand_on(record.call, call)


def _hand_on(call: Call, traced: Call) -> None:
    """Add the gradients at a layer's inputs to what they were computed from."""
    pairs = zip(_tensors(call), _tensors(traced), strict=True)
    found = [(tensor, copy.grad) for tensor, copy in pairs if tensor.requires_grad and copy.grad is not None]
    if found:
        tensors, gradients = zip(*found, strict=True)
        torch.autograd.backward(tensors, gradients)


def _detached(call: Call, *, trace: bool = False) -> Call:
    """The call with inputs that belong to no graph; with `trace` the floating ones gather gradients."""

    def cut(value: object) -> object:
        if not isinstance(value, torch.Tensor):
            return value
        tensor = value.detach()
        return tensor.requires_grad_() if trace and _gathers(value, call) else tensor

    return Call(call.layer, tree_map(cut, call.args), tree_map(cut, call.kwargs), call.number)


def _gathers(tensor: Tensor, call: Call) -> bool:
    """Whether gradients are wanted at an input: where it comes from other layers, and at what a layer changes."""
    return tensor.is_floating_point() and (tensor.requires_grad or any(tensor is value for value in call.args[:1]))


def _leaf(value: object) -> object:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.detach().requires_grad_()
    return value


def _tensors(call: Call) -> list[Tensor]:
    values = tree_flatten((call.args, call.kwargs))[0]
    return [value for value in values if isinstance(value, torch.Tensor)]


def _floats(output: Output) -> list[Tensor]:
    values = tree_flatten(output)[0]
    return [value for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()]
