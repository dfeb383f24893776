"""GPTQ's folders: `qweight`, `qzeros`, `scales`, `g_idx` (quantize/gptq_layout.py tells the layout)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from convert.json_types import JsonObject
from convert.source.unpack.matrix import Matrix, as_floats, beside, numbers, require
from convert.source.unpack.unreadable import UnreadableError
from quantize import packing

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor

VERSIONS = {"gptq": 1, "gptq_v2": 2}  # checkpoint_format -> of the zero points
ALIGNED = 32  # rows whose zero points fill whole words, whatever their bits


def matrices(raw: Mapping[str, LazyTensor], words: JsonObject) -> Iterator[Matrix]:
    """Every weight that is stored as words."""
    kind = words.get("checkpoint_format", "gptq")
    if kind not in VERSIONS:
        raise UnreadableError(f"checkpoint_format {kind!r:.40} is not read here, only {' and '.join(VERSIONS)}")
    for name in raw:
        module, _, suffix = name.rpartition(".")
        if suffix == "qweight":
            yield _matrix(raw, module, words, VERSIONS[str(kind)])


def _matrix(raw: Mapping[str, LazyTensor], module: str, words: JsonObject, version: int) -> Matrix:
    qweight, qzeros, scales = (beside(raw, module, suffix) for suffix in ("qweight", "qzeros", "scales"))
    order = raw.get(f"{module}.g_idx")
    bits = words.get("bits")
    if order is not None and order.shape[0]:
        bits = qweight.shape[0] * 32 // order.shape[0]  # `dynamic` may say others than `bits`
    if bits not in packing.GPTQ_BITS:
        raise UnreadableError(f"{bits!r:.20} bits, not one of {', '.join(map(str, packing.GPTQ_BITS))}")
    bits = int(str(bits))
    groups, rows = scales.shape if len(scales.shape) == 2 else (0, 0)
    columns = qweight.shape[0] * 32 // bits
    fits = qweight.dtype == "I32" and qweight.shape == (columns * bits // 32, rows) and groups > 0
    require(fits, qweight, f"I32 words of {rows} rows")
    require(qzeros.dtype == "I32" and qzeros.shape == (groups, rows * bits // 32), qzeros, f"I32 of {groups} groups")
    index = _index(order, columns, groups, words)

    def some(start: int, stop: int) -> np.ndarray:
        first, last = start // ALIGNED * ALIGNED, min(rows, -(-stop // ALIGNED) * ALIGNED)
        stored = numbers(qzeros, slice(None), slice(first * bits // 32, last * bits // 32))
        zeros = packing.gptq_zero_points(stored, bits, version)[start - first : stop - first].astype(np.int16)
        levels = packing.gptq_integers(numbers(qweight, slice(None), slice(start, stop)), bits).astype(np.int16)
        own = as_floats(scales, slice(None), slice(start, stop)).T
        return np.asarray((levels - zeros[:, index]).astype(np.float32) * own[:, index])

    parts = (qweight, qzeros, scales, *(() if order is None else (order,)))
    return Matrix(f"{module}.weight", (rows, columns), some, parts)


def _index(order: LazyTensor | None, columns: int, groups: int, words: JsonObject) -> np.ndarray:
    """The group of each column."""
    if order is not None and order.shape[0]:
        index = numbers(order).astype(np.int64)
        fits = index.shape == (columns,) and index.min() >= 0 and index.max() < groups
        require(fits, order, f"a group of {groups} for each of {columns} columns")
        return index
    if words.get("desc_act"):
        raise UnreadableError("desc_act is true, and there is no g_idx that says a column's group")
    return np.arange(columns) // -(-columns // groups)
