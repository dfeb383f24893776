"""Products of MLX's layers by numpy, on a CPU: MLX's own are exact and thirty times slower.

The wheel for Linux comes with the BLAS that others are tested against, not with one that is fast, and its kernels for
quantized matrices are plain loops: a window of 512 tokens takes SmolLM2-135M two minutes either way.
Everything else of a model, attention included, is computed by MLX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx import nn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class _Linear(nn.Linear):  # type: ignore[misc]
    def __call__(self, x: mx.array) -> mx.array:
        product = _product(x, self["weight"])
        return product + self["bias"] if "bias" in self else product


class _Embedding(nn.Embedding):  # type: ignore[misc]
    def as_linear(self, x: mx.array) -> mx.array:
        return _product(x, self["weight"])


def by_numpy(model: nn.Module) -> None:
    """Have the layers of a model that are plain and in float32 multiply by numpy; their numbers stay where they are."""
    for _, module in model.named_modules():
        faster = {nn.Linear: _Linear, nn.Embedding: _Embedding}.get(type(module))
        if faster is not None and module["weight"].dtype == mx.float32:
            module.__class__ = faster


def _product(x: mx.array, weight: mx.array) -> mx.array:
    rows, matrix = _shared(x.astype(mx.float32)), _shared(weight)
    return mx.array(rows.reshape(-1, rows.shape[-1]) @ matrix.T).reshape(*x.shape[:-1], len(matrix))


def _shared(array: ArrayLike) -> np.ndarray:
    """The numbers where MLX has them."""
    return np.array(array, copy=False)
