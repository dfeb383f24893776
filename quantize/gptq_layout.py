"""The layout AutoGPTQ gave its checkpoints, and how readers are told what stays as it is. Names and shapes only.

A matrix (rows = outputs, columns = inputs) becomes

    qweight  I32 (columns * bits / 32, rows)   a column of int32 holds 32 / bits inputs, the lowest bits the first
    qzeros   I32 (groups, rows * bits / 32)    packed along the rows, each less one: 8 of 4 bits is stored as 7
    scales   F16 (groups, rows)
    g_idx    I32 (columns,)                    the group of each input; with desc_act they are not in order

and weight = scale * (q - zero). Values of 3 bits lie one behind the other in the bit stream of three int32.
Source: AutoGPTQ, auto_gptq/nn_modules/qlinear/qlinear_cuda.py, `pack`.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

PACKED_ROWS = 32  # kernels and `pack` take blocks of so many rows and columns

Spec = tuple[str, tuple[int, ...]]  # a safetensors dtype and a shape
Shape = tuple[int, ...]

LAYER = re.compile(r"(?:^|\.)(\d+)\.")  # of a module in one: model.layers.3.mlp, h.3.mlp
HEAD = "lm_head"


@dataclass(frozen=True)
class Decision:
    """The modules of a checkpoint that are quantized, by name, and the other matrices, which stay as they are."""

    quantized: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def layers(self) -> int:
        """How many decoder layers are quantized."""
        return len({match[1] for name in self.quantized if (match := LAYER.search(name))})


def decide(matrices: Mapping[str, Shape], linears: Container[str]) -> Decision:
    """The `linears`, which are attention and MLP of every decoder layer; not tower, projector, embedding or head.

    `matrices` maps a module's name to the shape of its weight. A tower is a tenth of a model's weights and breaks
    first; the head decides every token. Serving engines expect both as they were.
    """
    taken = tuple(name for name in matrices if name in linears)
    return Decision(taken, tuple(name for name in matrices if name not in set(taken)))


def unsuitable(shape: Shape, group_size: int) -> str:
    """Why a matrix of this shape cannot be packed in such groups; empty when it can."""
    rows, columns = shape
    if rows % PACKED_ROWS or columns % PACKED_ROWS:
        return f"is {rows} x {columns}, and both have to be multiples of {PACKED_ROWS}"
    if group_size > 0 and columns % group_size:
        return f"has {columns} input columns, which is not a multiple of group_size {group_size}"
    return ""


def groups(columns: int, group_size: int) -> int:
    """How many groups a row is cut into; -1 stands for one."""
    return 1 if group_size < 0 else columns // group_size


def packed(shape: Shape, bits: int, group_size: int, bias: bool) -> dict[str, Spec]:
    """Suffix -> dtype and shape of the tensors a matrix becomes."""
    rows, columns = shape
    count = groups(columns, group_size)
    return {
        **({"bias": ("F16", (rows,))} if bias else {}),
        "g_idx": ("I32", (columns,)),
        "qweight": ("I32", (columns * bits // 32, rows)),
        "qzeros": ("I32", (count, rows * bits // 32)),
        "scales": ("F16", (count, rows)),
    }


# Which axis of each tensor runs along the rows: what is cut apart along them is put together there.
ROW_AXIS: Mapping[str, int | None] = {"bias": 0, "g_idx": None, "qweight": 1, "qzeros": 1, "scales": 1}


def exclusions(towers: Sequence[str], head: str = HEAD) -> list[str]:
    """The kept modules' beginnings in every reader's spelling: ["lm_head", "model.visual", "visual"].

    `towers` are the beginnings of vision tower and projector, `head` is what the checkpoint calls the head.

    transformers 5 and gptqmodel say `model.visual`; vLLM and older transformers `visual`. The head is named whether or
    not the checkpoint has one of its own: where it is tied to the embedding, readers make a module for it.
    """
    return sorted({HEAD, head, *towers, *(f"model.{tower}" for tower in towers)})


def dynamic(towers: Sequence[str]) -> dict[str, dict[str, int]]:
    """gptqmodel's and vLLM's way to say the same of GPTQ: patterns, matched from a module name's beginning."""
    return {f"-:(?:model\\.)?{tower}\\..*": {} for tower in sorted(towers)}
