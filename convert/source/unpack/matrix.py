"""A matrix that stored tensors are packed into, and what every layout needs to get at it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from convert.source.unpack.unreadable import UnreadableError
from quantize import e2m1, e4m3, floats

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor

BLOCK_VALUES = 1 << 20  # computed at a time: 4 MiB, and a few of them in between
Rows = Callable[[int, int], np.ndarray]

E8M0 = np.append(e2m1.EXPONENTS, np.float32(np.nan))
"""float32 of every E8M0."""


def _e5m2() -> np.ndarray:
    return (np.arange(256, dtype=np.uint16) << 8).view(np.float16).astype(np.float32)


TABLES = {"F8_E4M3": e4m3.VALUES, "F8_E5M2": _e5m2(), "F8_E8M0": E8M0}
"""Floats of 8 bits -> float32 of every byte."""


@dataclass(frozen=True)
class Matrix:
    """A weight of the model. `rows(start, stop)` along its first axis are float32."""

    name: str
    shape: tuple[int, ...]
    rows: Rows
    parts: tuple[LazyTensor, ...]  # what it is made of
    unused: tuple[str, ...] = ()  # stored tensors that say something else of it: scales of inputs

    @property
    def spent(self) -> tuple[str, ...]:
        """The stored tensors that are no tensors of the model."""
        return (*(part.name for part in self.parts), *self.unused)

    def tensor(self) -> LazyTensor:
        """The matrix as a tensor of the checkpoint."""
        return replace(
            self.parts[0],
            name=self.name,
            shape=self.shape,
            dtype="F32",
            load=self._load,
            release=self._release,
            rows=self.rows,
        )

    def _load(self) -> np.ndarray:
        whole = np.empty(self.shape, np.float32)
        step = max(1, BLOCK_VALUES // max(1, prod(self.shape[1:])))
        for start in range(0, self.shape[0], step):
            whole[start : start + step] = self.rows(start, min(start + step, self.shape[0]))
        whole.flags.writeable = False
        return whole

    def _release(self) -> None:
        for part in self.parts:
            part.release()


def numbers(tensor: LazyTensor, *where: slice) -> np.ndarray:
    """What is stored in a part of a tensor, copied: an odd header leaves a mapped one unaligned."""
    return np.array(tensor.load()[where])


def as_floats(tensor: LazyTensor, *where: slice) -> np.ndarray:
    """float32 of a part of a tensor of floats, whatever their size; of exponents in U8 too."""
    stored = numbers(tensor, *where)
    if tensor.dtype == "U8":
        return np.asarray(E8M0[stored])
    if tensor.dtype in TABLES:
        return np.asarray(TABLES[tensor.dtype][stored])
    if tensor.dtype == "F64":
        return stored.astype(np.float32)
    return floats.to_float32(stored)


def beside(raw: Mapping[str, LazyTensor], module: str, suffix: str) -> LazyTensor:
    """A module's stored tensor that has to be there."""
    name = f"{module}.{suffix}"
    if name not in raw:
        raise UnreadableError(f"{module} has no {suffix}")
    return raw[name]


def require(good: bool, tensor: LazyTensor, wanted: str) -> None:
    """Raise UnreadableError with the tensor's type and shape unless `good`."""
    if not good:
        raise UnreadableError(f"{tensor.name} is {tensor.dtype} {list(tensor.shape)}, wanted {wanted}")
