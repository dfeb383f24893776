"""FP8 as DeepSeek and transformers store it: `weight` in E4M3 and `weight_scale_inv`, which it is multiplied with.

Scales are for blocks (`weight_block_size`), for rows or for the tensor; floats, or E8M0. Experts may be stacked in one
tensor (`gate_up_proj` and `gate_up_proj_scale_inv`), or in E2M1, two values to a byte of an I8, 32 to a scale. Source:
transformers, integrations/finegrained_fp8.py; llama.cpp, conversion/base.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from convert.json_types import JsonObject
from convert.source.unpack.matrix import Matrix, Rows, as_floats, numbers, require
from convert.source.unpack.scaled import scaled
from convert.source.unpack.unreadable import UnreadableError
from quantize import e2m1

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor

SCALE = "_scale_inv"
OF_INPUTS = ("activation_scale", "input_scale", ".k_scale", ".v_scale")
EIGHT = ("F8_E4M3", "F8_E5M2")


def matrices(raw: Mapping[str, LazyTensor], words: JsonObject) -> Iterator[Matrix]:
    """Every weight that has a scale."""
    block = block_of(words.get("weight_block_size"))
    inputs = tuple(name for name in raw if name.endswith(OF_INPUTS))
    for name, scale in raw.items():
        if not name.endswith(SCALE):
            continue
        weight = raw.get(name.removesuffix(SCALE))
        if weight is None:
            raise UnreadableError(f"{name} has no {name.removesuffix(SCALE).rpartition('.')[2]} beside it")
        yield _matrix(weight, scale, block, inputs)
        inputs = ()


def block_of(words: object) -> tuple[int, int] | None:
    """A block's rows and columns; None where nothing is said of blocks."""
    if words is None:
        return None
    if not isinstance(words, list) or len(words) != 2 or not all(type(n) is int and 0 < n < 1 << 20 for n in words):
        raise UnreadableError(f"a block of {words!r:.40}, wanted [rows, columns]")
    return words[0], words[1]


def _matrix(weight: LazyTensor, scale: LazyTensor, block: tuple[int, int] | None, unused: tuple[str, ...]) -> Matrix:
    parts = weight, scale
    require(len(weight.shape) > 1, weight, "a matrix, or matrices in a stack")
    if weight.dtype == "I8":
        shape = (*weight.shape[:-1], 2 * weight.shape[-1])
        return Matrix(weight.name, shape, scaled(_halves(weight), shape, scale), parts, unused)
    require(weight.dtype in EIGHT, weight, " or ".join(EIGHT))
    rows = scaled(lambda start, stop: as_floats(weight, slice(start, stop)), weight.shape, scale, block)
    return Matrix(weight.name, weight.shape, rows, parts, unused)


def _halves(weight: LazyTensor) -> Rows:
    """E2M1, the first of two values in the low half."""

    def rows(start: int, stop: int) -> np.ndarray:
        packed = numbers(weight, slice(start, stop)).view(np.uint8)
        return e2m1.unpack(packed.reshape(-1, packed.shape[-1])).reshape(*packed.shape[:-1], -1)

    return rows
