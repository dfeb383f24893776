"""Layers on accelerators: weights and inputs go there, results come back; the next layer's weights are on their way.

What a model does between its layers stays on the CPU. Several devices share the passes, each with a copy of the layer.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.utils._pytree import tree_map

from convert.model.forward import Call, Output
from convert.model.hollow import Weights, build
from convert.model.layered import Layer, Layered, Loader, Through
from convert.model.scratch import Scratch

if TYPE_CHECKING:
    from torch import nn

    _Entered: TypeAlias = tuple[contextlib.ExitStack, nn.Module]  # a context that is open, and what it gave

CPU = torch.device("cpu")


def there_are() -> list[torch.device]:
    """Every CUDA device, else the CPU."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cuda", number) for number in range(count)] or [CPU]


def moved(value: object, device: torch.device) -> object:
    """The value with every tensor in it on the device."""
    return tree_map(lambda one: one.to(device) if isinstance(one, torch.Tensor) else one, value)


def away(forward: Callable[..., Output], device: torch.device) -> Callable[..., Output]:
    """A module's forward where its weights are, for arguments on the CPU; what it gives is there again."""

    def run(*args: object, **kwargs: object) -> Output:
        there = {name: moved(value, device) for name, value in kwargs.items()}
        return moved(forward(*(moved(value, device) for value in args), **there), CPU)

    return run


class Split(Through):
    """Every pass goes through, on the device whose turn it is; the first one has the layer's own weights."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._devices = devices

    def visit(self, layer: Layer, calls: Sequence[Call]) -> Iterator[Output]:
        """The output of each call, in order; no more of them at once than there are devices."""
        runs = [layer.forward, *(_on(layer, device) for device in self._devices[1:])]
        with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
            for start in range(0, len(calls), len(runs)):
                together = list(zip(runs, calls[start : start + len(runs)], strict=False))
                for future in [pool.submit(_run, run, call) for run, call in together]:
                    yield future.result()


def _run(forward: Callable[..., Output], call: Call) -> Output:
    with torch.inference_mode():
        return forward(*call.args, **call.kwargs)


def _on(layer: Layer, device: torch.device) -> Callable[..., Output]:
    """The forward of a copy of the layer. A copy's attribute `forward` is the door of the original."""
    module = copy.deepcopy(layer.module).to(device)
    return away(partial(type(module).forward, module), device)


@dataclass
class Ahead:
    """Brings each layer's weights while passes go through the one before: the memory of two layers."""

    inner: Loader
    _pool: concurrent.futures.Executor = field(default_factory=lambda: concurrent.futures.ThreadPoolExecutor(1))
    _next: tuple[str, concurrent.futures.Future[_Entered]] | None = None

    @property
    def targets(self) -> Mapping[str, str]:
        """Those of who reads them."""
        return self.inner.targets

    def load(self, module: str) -> None:
        """What is the module's own, for good."""
        self.inner.load(module)

    @contextlib.contextmanager
    def loaded(self, module: str) -> Iterator[nn.Module]:
        """All that is in it."""
        if self._next is None or self._next[0] != module:
            self.idle()
            self.expect(module)
        assert self._next is not None
        (stack, found), self._next = self._next[1].result(), None
        with stack:
            yield found

    def expect(self, module: str) -> None:
        """Bring it."""
        self._next = module, self._pool.submit(self._enter, module)

    def idle(self) -> None:
        """Let go of what was brought and nobody asked for."""
        if self._next is not None:
            (_, future), self._next = self._next, None
            future.result()[0].close()

    def _enter(self, module: str) -> _Entered:
        stack = contextlib.ExitStack()
        return stack, stack.enter_context(self.inner.loaded(module))


def open_on(
    devices: Sequence[torch.device], folder: Path, dtype: torch.dtype, *, trust_remote_code: bool, scratch: Scratch
) -> Layered:
    """As `Layered.open`, its layers on these devices."""
    first = devices[0]
    if list(devices) == [CPU]:
        return Layered.open(folder, dtype, trust_remote_code=trust_remote_code, scratch=scratch)
    model = build(folder, dtype, trust_remote_code=trust_remote_code)
    opened = Layered(model, Ahead(Weights(model, folder, dtype, first)), scratch, partial(away, device=first))
    opened.through = Split(devices)
    return opened
