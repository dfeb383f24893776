"""BERT-like encoders that transformers has no class for, computed by hand from a checkpoint's tensors.

    layer:  x = norm(x + attention(x)), x = norm(x + mlp(x))

GELU is ggml's table of the tanh formula (see rounding.py), since these stand for llama.cpp's exact arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Tensors = Mapping[str, Any]
HEADS = 4


@dataclass(frozen=True)
class Layer:
    """How a family's layer is called and what is special in it; `{i}` is filled in already."""

    query: Callable[[Tensors, Any], tuple[Any, Any, Any]]  # q, k, v of x, (token, hidden) each
    out: str
    norms: Sequence[str]  # behind attention, one more there or not, behind the MLP
    mlp: Callable[[Tensors, Any], Any]


def gelu(values: Any) -> Any:
    """ggml's."""
    import torch

    halves = torch.nn.functional.gelu(values.half().float(), approximate="tanh").half().float()
    return torch.where(values <= -10, 0.0, torch.where(values >= 10, values, halves))


def linear(tensors: Tensors, name: str, values: Any) -> Any:
    """With its bias where it has one."""
    import torch

    return torch.nn.functional.linear(values, tensors[f"{name}.weight"], tensors.get(f"{name}.bias"))


def norm(tensors: Tensors, name: str, values: Any, epsilon: float = 1e-12) -> Any:
    """Layer norm."""
    import torch

    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    return torch.nn.functional.layer_norm(values, weight.shape, weight, bias, epsilon)


def alibi(tokens: int) -> Any:
    """(head, token, token) of what is added to scores: further tokens count less, on both sides."""
    import torch

    slopes = 2.0 ** (-8.0 / HEADS * torch.arange(1, HEADS + 1))
    apart = (torch.arange(tokens)[:, None] - torch.arange(tokens)[None]).abs()
    return -slopes[:, None, None] * apart


def rotated(values: Any, theta: float) -> Any:
    """(head, token, value) turned by place, value j with value j + half a head."""
    import torch

    half = values.shape[-1] // 2
    angles = torch.arange(values.shape[1])[:, None] * theta ** (-torch.arange(half) / half)
    one, other = values[..., :half], values[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def attended(parts: tuple[Any, Any, Any], theta: float | None) -> Any:
    """(token, hidden) of q, k and v; rotary positions where `theta` says of which base, else alibi."""
    tokens, hidden = parts[0].shape
    q, k, v = (part.reshape(tokens, HEADS, -1).transpose(0, 1) for part in parts)
    if theta is not None:
        q, k = rotated(q, theta), rotated(k, theta)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) + (0 if theta else alibi(tokens))
    return (scores.softmax(-1) @ v).transpose(0, 1).reshape(tokens, hidden)


def vectors(
    folder: Path, tokens: Sequence[int], layers: Sequence[Layer], first: str, theta: float | None = None
) -> np.ndarray:
    """float32 (token, hidden); `first` is the norm behind the embedding."""
    import torch
    from safetensors.torch import load_file

    found = load_file(folder / "model.safetensors")
    words, types = (found[f"embeddings.{name}_embeddings.weight"] for name in ("word", "token_type"))
    with torch.inference_mode():
        x = norm(found, first, words[list(tokens)] + types[0])
        for layer in layers:
            behind, *more, last = layer.norms
            out = linear(found, layer.out, attended(layer.query(found, x), theta))
            y = norm(found, behind, x + out)
            for name in more:
                y = norm(found, name, x + y)
            x = norm(found, last, y + layer.mlp(found, y))
        values: np.ndarray = x.numpy()
    return values
