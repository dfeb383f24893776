"""Damage to the values of GGUF files and their projectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults.kinds import SUITE, Damaged, Honest
from tests.fixtures_validate import rewritten

Edit = Callable[[np.ndarray], np.ndarray]


def damaged(honest: Honest, out: Path, base: str, edits: dict[str, Edit], **fields: Any) -> Damaged:
    """A copy of a GGUF output whose named tensors are changed; None as a field's value drops it."""

    def change(name: str, data: np.ndarray) -> np.ndarray:
        return edits[name](data) if name in edits else data

    file = rewritten(honest.outputs[base], out / "damaged.gguf", fields, change)
    return Damaged(file, honest.projector)


def projector(honest: Honest, out: Path, edits: dict[str, Edit], **fields: Any) -> Damaged:
    """The F16 file with a copy of its projector in which tensors or fields are changed."""

    def change(name: str, data: np.ndarray) -> np.ndarray:
        return edits[name](data) if name in edits else data

    assert honest.projector is not None
    file = out / "sound.gguf"  # a name of its own: validation makes one row of a file
    file.hardlink_to(honest.outputs["f16"])
    return Damaged(file, rewritten(honest.projector, out / "mmproj.gguf", fields, change))


def tensor(path: Path, name: str) -> np.ndarray:
    from gguf import GGUFReader

    return next(np.array(t.data) for t in GGUFReader(path).tensors if t.name == name)


def zero(data: np.ndarray) -> np.ndarray:
    return np.zeros_like(data)


def negate(data: np.ndarray) -> np.ndarray:
    return -data


def double(data: np.ndarray) -> np.ndarray:
    return data * np.asarray(2, data.dtype)


def transpose(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data.T).reshape(data.shape)


def put(value: float) -> Edit:
    def change(data: np.ndarray) -> np.ndarray:
        data[(0,) * data.ndim] = value
        return data

    return change


def unpermuted(heads: int) -> Edit:
    """Rows of every head as llama.cpp's interleaved rotary positions want them, or no longer want them."""

    def change(data: np.ndarray) -> np.ndarray:
        rows = data.reshape(heads, 2, -1, *data.shape[1:])
        return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(data.shape)

    return change


def exchange_rows(first: int, second: int) -> Edit:
    def change(data: np.ndarray) -> np.ndarray:
        data[[first, second]] = data[[second, first]]
        return data

    return change


def double_first_scale(at: int) -> Edit:
    """Of the first block, whose scale lies so many bytes from its start (ggml-common.h)."""

    def change(data: np.ndarray) -> np.ndarray:
        scale = data.reshape(-1)[at : at + 2]
        scale[:] = (scale.copy().view(np.float16) * np.float16(2)).view(np.uint8)
        return data

    return change


def patch_order(data: np.ndarray) -> np.ndarray:
    """Columns of the projector's first matrix as if four patches were read by columns, not by rows."""
    return np.ascontiguousarray(data.reshape(len(data), 4, -1)[:, [0, 2, 1, 3]]).reshape(data.shape)


def edit(name: str, which: str, change: Edit, *, base: str = "f16", model: str = "nano", fast: bool = False) -> None:
    SUITE.add(name, lambda h, out: damaged(h, out, base, {which: change}), which, model=model, fast=fast)


def edit_projector(name: str, which: str, change: Edit, fast: bool = False) -> None:
    SUITE.add(name, lambda h, out: projector(h, out, {which: change}), which, fast=fast)


def copied(name: str, which: str, other: str, model: str = "nano") -> None:
    """A tensor holds another's values."""

    def make(h: Honest, out: Path) -> Damaged:
        values = tensor(h.outputs["f16"], other)
        return damaged(h, out, "f16", {which: lambda data: values.reshape(data.shape)})

    SUITE.add(name, make, which, model=model)


def exchanged_layers(h: Honest, out: Path) -> Damaged:
    from gguf import GGUFReader

    all_ = {t.name: np.array(t.data) for t in GGUFReader(h.outputs["f16"]).tensors}
    edits: dict[str, Edit] = {}
    for name in all_:
        for one, two in (("blk.1.", "blk.2."), ("blk.2.", "blk.1.")):
            if name.startswith(one):
                other = all_[two + name.removeprefix(one)]
                edits[name] = lambda data, other=other: other
    return damaged(h, out, "f16", edits)


edit("zeroed MLP matrix of a Q4_K_M file", "blk.2.ffn_gate.weight", zero, base="q4", fast=True)
edit("negated attention output", "blk.1.attn_output.weight", negate)
edit("transposed square matrix", "blk.2.attn_q.weight", transpose)
edit("norm plus one twice", "blk.2.ffn_norm.weight", lambda data: data + np.float32(1))
edit("final norm doubled", "output_norm.weight", double)
edit("one NaN", "blk.1.ffn_gate.weight", put(float("nan")), fast=True)
edit("one Inf", "blk.2.ffn_up.weight", put(float("inf")))
edit("q permuted as for another family", "blk.1.attn_q.weight", unpermuted(4))
edit("k permuted as for another family", "blk.2.attn_k.weight", unpermuted(2))
edit("bias zeroed", "blk.0.attn_q.bias", zero)
edit("two tokens exchanged in the embedding", "token_embd.weight", exchange_rows(40, 41))
edit("two tokens exchanged in the head", "output.weight", exchange_rows(40, 41))
edit("scale of a Q8_0 block doubled", "blk.1.attn_q.weight", double_first_scale(0), base="q8", fast=True)
edit("scale of a Q4_K block doubled", "blk.1.attn_q.weight", double_first_scale(0), base="q4")
edit("scale of a Q3_K block doubled", "blk.1.attn_output.weight", double_first_scale(108), base="q2")
edit("scale of a Q2_K block doubled", "blk.1.attn_q.weight", double_first_scale(80), base="q2")
copied("up put in place of gate", "blk.1.ffn_gate.weight", "blk.1.ffn_up.weight")
copied("k put in place of v", "blk.2.attn_v.weight", "blk.2.attn_k.weight")
copied("matrix of another layer", "blk.0.ffn_down.weight", "blk.3.ffn_down.weight")
copied("head tied that is not", "output.weight", "token_embd.weight")
SUITE.add("two layers exchanged", exchanged_layers, "blk.1.")
edit_projector("negated tower matrix", "v.blk.1.ffn_up.weight", negate)
edit_projector("tower norm zeroed", "v.blk.2.ln1.weight", zero)
edit_projector("patch embedding scaled", "v.patch_embd.weight", double)
edit_projector("rows and columns of patches exchanged", "v.patch_embd.weight", lambda data: data.swapaxes(2, 3).copy())
edit_projector("colours of patches exchanged", "v.patch_embd.weight", lambda data: data[:, ::-1].copy(), fast=True)
edit_projector("patches merged in another order", "mm.0.weight", patch_order)
edit_projector("halves of the patch embedding zeroed", "v.patch_embd.weight.1", zero)
