"""A matrix of every part of a model, damaged in every plain way: zeroed, exchanged, transposed, scaled, negated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.faults.gguf_tensors import Edit, damaged, double, negate, projector, tensor, transpose, zero
from tests.faults.kinds import SUITE, Damaged, Honest

DOWN = "blk.1.ffn_down_exps.weight"


@dataclass(frozen=True)
class Part:
    """A tensor of a part, and another of its shape to exchange it with. An `expert` is one slice of a tensor."""

    tensor: str
    other: str
    model: str = "nano"
    expert: int | None = None
    in_projector: bool = False

    def edits(self, change: Edit) -> dict[str, Edit]:
        number = self.expert
        return {self.tensor: change if number is None else of_expert(number, change)}


def of_expert(number: int, change: Edit) -> Edit:
    def edit_one(data: np.ndarray) -> np.ndarray:
        data[number] = change(data[number])
        return data

    return edit_one


def backwards(data: np.ndarray) -> np.ndarray:
    """What stands for a transposition of a vector."""
    return np.ascontiguousarray(data[::-1])


PARTS = {
    "attention": Part("blk.1.attn_k.weight", "blk.1.attn_v.weight"),
    "MLP": Part("blk.2.ffn_up.weight", "blk.2.ffn_gate.weight"),
    "expert": Part(DOWN, DOWN, model="moe", expert=2),
    "embedding": Part("token_embd.weight", "output.weight"),
    "head": Part("output.weight", "token_embd.weight"),
    "norm": Part("blk.1.attn_norm.weight", "blk.1.ffn_norm.weight"),
    "projector": Part("mm.0.weight", "", in_projector=True),
    "tower": Part("v.blk.1.attn_q.weight", "v.blk.1.attn_k.weight", in_projector=True),
}
WAYS: dict[str, Edit] = {"zeroed": zero, "transposed": transpose, "scaled": double, "negated": negate}
FAST = {"transposed expert", "zeroed projector"}


def declare(part: str, which: Part, way: str) -> None:
    """One cell of the grid."""
    change = backwards if part == "norm" and way == "transposed" else WAYS[way]

    def make(h: Honest, out: Path) -> Damaged:
        edits = which.edits(change)
        return projector(h, out, edits) if which.in_projector else damaged(h, out, "f16", edits)

    name = f"{way} {part}"
    SUITE.add(name, make, which.tensor, model=which.model, fast=name in FAST)


def declare_exchanged(part: str, which: Part) -> None:
    """Two tensors of a part in each other's place; two experts of one tensor."""

    def two_experts(data: np.ndarray) -> np.ndarray:
        data[[0, 1]] = data[[1, 0]]
        return data

    def make(h: Honest, out: Path) -> Damaged:
        if which.expert is not None:
            return damaged(h, out, "f16", {which.tensor: two_experts})
        file = h.projector if which.in_projector else h.outputs["f16"]
        assert file is not None
        one, two = tensor(file, which.tensor), tensor(file, which.other)
        edits: dict[str, Edit] = {which.tensor: lambda data: two, which.other: lambda data: one}
        return projector(h, out, edits) if which.in_projector else damaged(h, out, "f16", edits)

    SUITE.add(f"exchanged {part}", make, which.tensor, model=which.model)


for _part, _which in PARTS.items():
    for _way in WAYS:
        declare(_part, _which, _way)
    if _which.other and _part != "head":  # which is the embedding's cell
        declare_exchanged(_part, _which)
