"""AWQ's folders as AutoAWQ's GEMM kernels take them (quantize/awq_layout.py tells the layout)."""

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

EIGHT = 8  # rows to a word


def matrices(raw: Mapping[str, LazyTensor], words: JsonObject) -> Iterator[Matrix]:
    """Every weight that is stored as words."""
    version = words.get("version", words.get("checkpoint_format", "gemm"))
    if not isinstance(version, str) or version.lower() != "gemm":
        raise UnreadableError(f"version {version!r:.40} is not read here, only gemm")
    bits = words.get("bits", words.get("w_bit", 4))
    if bits != 4:
        raise UnreadableError(f"{bits!r:.20} bits, not 4")
    for name in raw:
        module, _, suffix = name.rpartition(".")
        if suffix == "qweight":
            yield _matrix(raw, module)


def _matrix(raw: Mapping[str, LazyTensor], module: str) -> Matrix:
    qweight, qzeros, scales = parts = tuple(beside(raw, module, s) for s in ("qweight", "qzeros", "scales"))
    require(len(qweight.shape) == 2 and qweight.dtype == "I32", qweight, "I32 words")
    columns, rows = qweight.shape[0], EIGHT * qweight.shape[1]
    groups = scales.shape[0] if len(scales.shape) == 2 and scales.shape[1] == rows else 0
    require(groups > 0 and columns % groups == 0, scales, f"scales of {rows} rows, and groups of {columns} columns")
    require(qzeros.dtype == "I32" and qzeros.shape == (groups, rows // EIGHT), qzeros, f"I32 {[groups, rows // EIGHT]}")
    each = columns // groups

    def some(start: int, stop: int) -> np.ndarray:
        first, last = start // EIGHT, -(-stop // EIGHT)
        own = slice(start - EIGHT * first, stop - EIGHT * first)
        levels = packing.awq_integers(numbers(qweight, slice(None), slice(first, last)))[own].astype(np.int16)
        zeros = packing.awq_integers(numbers(qzeros, slice(None), slice(first, last)))[own].astype(np.int16)
        factors = as_floats(scales, slice(None), slice(start, stop)).T
        return np.asarray((levels - zeros.repeat(each, 1)).astype(np.float32) * factors.repeat(each, 1))

    return Matrix(f"{module}.weight", (rows, columns), some, parts)
