"""Parameters that a checkpoint stores otherwise: in pieces, in a stack, turned around.

transformers has a table of what it does to them when it loads a model (its WeightConverter: stack the experts, put gate
and up together, cut q, k and v apart). The same operations run here, on the tensors of one parameter, when that is
written; of a stack of experts, on those of one expert. On the meta device they give shapes without reading anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import ml_dtypes  # noqa: F401 - numpy's bfloat16
import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers.core_model_loading import WeightConverter

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {kind: name for name, kind in DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """A tensor where it lies: bytes `start` to `stop` of a safetensors file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    stop: int

    def row(self, number: int) -> Stored:
        """The tensor at a place of the first axis."""
        size = (self.stop - self.start) // self.shape[0]
        start = self.start + number * size
        return replace(self, name=f"{self.name}[{number}]", shape=self.shape[1:], start=start, stop=start + size)


@dataclass(frozen=True)
class Joined:
    """A parameter, or an expert's matrix of one, that is made of stored tensors when it is written."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    sources: tuple[Stored, ...]
    make: Callable[[], np.ndarray] = field(compare=False, repr=False)
    start: int = 0

    @property
    def stop(self) -> int:
        """The number of its bytes."""
        size: int = DTYPES[self.dtype].itemsize
        return prod(self.shape) * size


@dataclass(frozen=True)
class Recipe:
    """What is gathered for one conversion: the rule of transformers, the parameter it names first, its tensors."""

    rule: WeightConverter
    target: str
    tensors: Mapping[str, tuple[Stored, ...]]  # pattern of the rule -> its tensors, in order

    def targets(self, model: nn.Module) -> dict[str, Joined]:
        """Every parameter that comes out, and what it is made of. Raises what transformers' operations raise."""
        sources = tuple(tensor for tensors in self.tensors.values() for tensor in tensors)
        shapes = {name: (NAMES[made.dtype], tuple(made.shape)) for name, made in self.run(model, _shape).items()}
        return {
            name: Joined(name, dtype, shape, sources, partial(self._made, model, name))
            for name, (dtype, shape) in shapes.items()
        }

    def _made(self, model: nn.Module, name: str) -> np.ndarray:
        return _values(self.run(model, _read)[name])

    def run(self, model: nn.Module, load: Callable[[Stored], Tensor]) -> dict[str, Tensor]:
        """The parameters that come out, of tensors loaded so."""
        rule = deepcopy(self.rule)
        for pattern, tensors in self.tensors.items():
            for tensor in tensors:
                rule.add_tensor(self.target, tensor.name, pattern, partial(load, tensor))
        made: dict[str, Tensor] = rule.convert(self.target, model=model, config=model.config)
        return {name: one[0] if isinstance(one, list) else one for name, one in made.items()}

    def of_expert(self, number: int, count: int) -> Recipe | None:
        """The same for one expert, which gives a stack of one; None where its tensors are not apart."""
        if any(vars(one).get("check_dims") for one in self.rule.operations):
            return None  # they look at the shape of the whole
        own = {pattern: _one(tensors, number, count) for pattern, tensors in self.tensors.items()}
        return replace(self, tensors=own) if all(own.values()) else None


def _one(tensors: Sequence[Stored], number: int, count: int) -> tuple[Stored, ...]:
    if len(tensors) == count:
        return (tensors[number],)
    if len(tensors) == 1 and len(tensors[0].shape) == 3 and tensors[0].shape[0] == count:
        row = tensors[0].row(number)
        return (replace(row, shape=(1, *row.shape)),)
    return ()


def expert(name: str, recipe: Recipe, whole: Joined, number: int, model: nn.Module) -> Joined:
    """One expert's matrix of a parameter that `recipe` makes."""
    own = recipe.of_expert(number, whole.shape[0])

    def make() -> np.ndarray:
        made: np.ndarray = whole.make()[number] if own is None else _values(own.run(model, _read)[whole.name])[0]
        return made

    sources = whole.sources if own is None else tuple(t for tensors in own.tensors.values() for t in tensors)
    return Joined(name, whole.dtype, whole.shape[1:], sources, make)


def _shape(tensor: Stored) -> Tensor:
    return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype], device="meta")


def _read(tensor: Stored) -> Tensor:
    """The values of a tensor, from its file."""
    integers = {2: np.int16, 4: np.int32}[DTYPES[tensor.dtype].itemsize]
    if not prod(tensor.shape):
        return torch.empty(tensor.shape, dtype=DTYPES[tensor.dtype])
    raw = np.memmap(tensor.path, integers, "r", tensor.start, tensor.shape)
    return torch.from_numpy(np.array(raw)).view(DTYPES[tensor.dtype])


def _values(tensor: Tensor) -> np.ndarray:
    """A torch tensor as numpy has it, bfloat16 too."""
    whole = tensor.detach().contiguous()
    if whole.dtype != torch.bfloat16:
        return whole.numpy()  # type: ignore[no-any-return]
    return whole.view(torch.int16).numpy().view(np.dtype("bfloat16"))  # type: ignore[no-any-return]
