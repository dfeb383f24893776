"""bitsandbytes: 8 bits with a scale a row (`SCB`), and 4 bits (nf4, fp4) in blocks, whose scales may be 8 bits too.

    8 bits   weight I8 (rows, columns), SCB F32 (rows,): value = weight * SCB / 127
    4 bits   weight U8 (bytes, 1), two values to a byte, the first in its high half, row after row
             absmax                    F32 (blocks,), or U8 with nested_absmax, nested_quant_map and nested_offset
             quant_map                 the 16 values
             quant_state.bitsandbytes__nf4   JSON: shape, blocksize, nested_blocksize, nested_offset

Source: bitsandbytes, functional.py (QuantState.from_dict, dequantize_4bit, int8_vectorwise_dequant).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.unpack.matrix import Matrix, as_floats, beside, numbers, require
from convert.source.unpack.unreadable import UnreadableError
from convert.source.untrusted import parse_object

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor

STATE = ".weight.quant_state.bitsandbytes__"
PER_ROW = np.float32(7.874015718698502e-3)  # 1 / 127, as the library has it
MOST_BYTES = 1 << 16


def matrices(raw: Mapping[str, LazyTensor], words: JsonObject) -> Iterator[Matrix]:
    """Every weight that has scales, in whichever of the two ways."""
    del words
    for name in raw:
        if name.endswith(".SCB"):
            yield _eight(raw, name.removesuffix(".SCB"))
        elif STATE in name:
            yield _four(raw, name.partition(STATE)[0], name)


def _eight(raw: Mapping[str, LazyTensor], module: str) -> Matrix:
    weight, scale = beside(raw, module, "weight"), beside(raw, module, "SCB")
    require(weight.dtype == "I8" and len(weight.shape) == 2, weight, "I8, a matrix")
    require(scale.shape == weight.shape[:1], scale, f"[{weight.shape[0]}]")
    order = raw.get(f"{module}.weight_format")
    if order is not None and numbers(order).any():
        raise UnreadableError(f"{module}.weight is stored in tiles (weight_format), not in rows")

    def some(start: int, stop: int) -> np.ndarray:
        values = numbers(weight, slice(start, stop)).astype(np.float32)
        return np.asarray(values * as_floats(scale, slice(start, stop))[:, None] * PER_ROW)

    return Matrix(weight.name, weight.shape, some, (weight, scale), () if order is None else (order.name,))


def _four(raw: Mapping[str, LazyTensor], module: str, state: str) -> Matrix:
    name = f"{module}.weight"
    weight, absmax, table = (beside(raw, module, s) for s in ("weight", "weight.absmax", "weight.quant_map"))
    said = _state(raw[state])
    shape, block = said.get("shape"), said.get("blocksize")
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n < 1 << 24 for n in shape):
        raise UnreadableError(f"{state} has the shape {shape!r:.40}")
    if type(block) is not int or block < 1:
        raise UnreadableError(f"{state} has the blocksize {block!r:.40}")
    count = shape[0] * shape[1]
    require(weight.dtype == "U8" and prod(weight.shape) == -(-count // 2), weight, f"U8, {count} values of 4 bits")
    require(table.shape == (16,), table, "16 values")
    parts = [weight, absmax, table, raw[state]]
    nested = [t for s in ("nested_absmax", "nested_quant_map") if (t := raw.get(f"{name}.{s}")) is not None]
    scales = _Scales(said, absmax, *nested)
    fits = absmax.shape == (-(-count // block),) and absmax.dtype == ("U8" if nested else "F32")
    require(fits, absmax, f"{'U8' if nested else 'F32'} [{-(-count // block)}]")
    values = as_floats(table)

    def some(start: int, stop: int) -> np.ndarray:
        first, last = start * shape[1], stop * shape[1]
        packed = np.array(weight.load().reshape(-1)[first // 2 : -(-last // 2)])
        codes = np.stack((packed >> 4, packed & 15), -1).reshape(-1)[first % 2 :][: last - first]
        own = scales.of(first // block, -(-last // block)).repeat(block)[first % block :][: last - first]
        return np.asarray((values[codes] * own).reshape(stop - start, shape[1]))

    return Matrix(name, (shape[0], shape[1]), some, (*parts, *nested))


def _state(tensor: LazyTensor) -> JsonObject:
    require(tensor.dtype == "U8" and len(tensor.shape) == 1 and tensor.shape[0] < MOST_BYTES, tensor, "bytes of JSON")
    try:
        return parse_object(tensor.name, numbers(tensor).tobytes())
    except InputError:
        raise UnreadableError(f"{tensor.name} holds no JSON object") from None


@dataclass(frozen=True)
class _Scales:
    """The largest values of blocks; with `outer` in 8 bits, under scales of their own."""

    said: JsonObject
    absmax: LazyTensor
    outer: LazyTensor | None = None
    table: LazyTensor | None = None

    def of(self, start: int, stop: int) -> np.ndarray:
        """float32 of some blocks."""
        if self.outer is None or self.table is None:
            return as_floats(self.absmax, slice(start, stop))
        size, offset = self.said.get("nested_blocksize"), self.said.get("nested_offset", 0.0)
        if type(size) is not int or size < 1 or not isinstance(offset, int | float):
            raise UnreadableError(f"{self.absmax.name} has a nested_blocksize of {size!r:.20}")
        codes = numbers(self.absmax, slice(start, stop))
        inner = as_floats(self.table)[codes] * as_floats(self.outer)[np.arange(start, stop) // size]
        return np.asarray(inner + np.float32(offset))
