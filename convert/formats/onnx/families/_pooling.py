"""What sentence-transformers does with an encoder's vectors of tokens, inside the graph.

    (batch, sequence, width), mask -> mean, first or last token -> matrices and activations -> length 1

Matrices behind the pooling are constants of the graph: they lie in files of their own, beside the checkpoint's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from convert.errors import InputError
from convert.source.checkpoint import stored_tensors
from convert.source.sentences import WEIGHTS
from quantize.floats import to_float32

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from torch import Tensor

    from convert.source.checkpoint import LazyTensor
    from validate.sentences import Dense, Sentences

OUTPUT = "sentence_embedding"  # as sentence-transformers' own export and those on the hub call it
ACTIVATIONS = {
    "Identity": torch.nn.Identity,
    "Tanh": torch.nn.Tanh,
    "ReLU": torch.nn.ReLU,
    "GELU": torch.nn.GELU,
    "SiLU": torch.nn.SiLU,
}
SMALLEST = 1e-12  # a length that a vector is divided by


@dataclass(frozen=True)
class Embedder:
    """What sentence-transformers' files say, and where they lie by their names in the model's folder."""

    sentences: Sentences
    files: Mapping[str, Path]


class Pooled(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """A graph's module, whose first output is the vectors of tokens, with the vector of each text as its last."""

    def __init__(self, inner: torch.nn.Module, mask: int, embedder: Embedder) -> None:
        super().__init__()
        self.inner, self.mask, self.sentences = inner, mask, embedder.sentences
        self.dense = torch.nn.Sequential(*(_layer(dense, embedder.files) for dense in embedder.sentences.dense))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        vectors, *others = self.inner(*tensors)
        pooled = self.dense(pool(vectors, tensors[self.mask], self.sentences.pooling))
        if self.sentences.normalized:
            pooled = pooled / pooled.norm(dim=-1, keepdim=True).clamp(min=SMALLEST)
        return vectors, *others, pooled


def pool(vectors: Tensor, mask: Tensor, how: str) -> Tensor:
    """(batch, width) of (batch, sequence, width): the mean, the first or the last of the tokens the mask shows."""
    if how == "mean":
        seen = mask[..., None].to(vectors.dtype)
        return (vectors * seen).sum(1) / seen.sum(1).clamp(min=1)
    places = torch.arange(mask.shape[1]) * mask
    at = mask.argmax(1) if how == "cls" else places.argmax(1)  # padding may stand in front
    return vectors.gather(1, at[:, None, None].expand(-1, 1, vectors.shape[-1]))[:, 0]


class _Dense(torch.nn.Module):  # type: ignore[misc]  # torch is not followed by mypy here
    """A matrix that is a constant: no parameter, for the checkpoint's tensors are those of the encoder."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None) -> None:
        super().__init__()
        self.register_buffer("weight", torch.tensor(weight))
        self.register_buffer("bias", None if bias is None else torch.tensor(bias))

    def forward(self, vectors: Tensor) -> Tensor:
        return torch.nn.functional.linear(vectors, self.weight, self.bias)


def _layer(dense: Dense, files: Mapping[str, Path]) -> torch.nn.Module:
    name = f"{dense.folder}/{WEIGHTS}"
    if name not in files or dense.activation not in ACTIVATIONS:
        got = f"has no {WEIGHTS}" if name not in files else f"has the activation {dense.activation}"
        wanted = "its weights" if name not in files else f"one of {', '.join(ACTIVATIONS)}"
        raise InputError(dense.folder, got, wanted, "download the model again, whole")
    tensors = stored_tensors(files[name])
    shapes = {
        "linear.weight": (dense.outputs, dense.inputs),
        **({"linear.bias": (dense.outputs,)} if dense.bias else {}),
    }
    for tensor, shape in shapes.items():
        if tensor not in tensors or tensors[tensor].shape != shape:
            got = f"has no {tensor} of {list(shape)}"
            raise InputError(str(files[name]), got, "what its config.json says", "download the model again, whole")
    bias = _values(tensors["linear.bias"]) if dense.bias else None
    return torch.nn.Sequential(_Dense(_values(tensors["linear.weight"]), bias), ACTIVATIONS[dense.activation]())


def _values(tensor: LazyTensor) -> np.ndarray:
    raw = tensor.load()
    found: np.ndarray = to_float32(raw.copy()) if tensor.dtype == "BF16" else raw.astype("float32")
    return found
