"""compressed-tensors' layouts (quantize/compressed.py tells them), and those of fbgemm and ModelOpt, which are alike.

    weight F8_E4M3, weight_scale                             float-quantized; fbgemm_fp8; ModelOpt FP8
    weight I8, weight_scale, weight_zero_point               int-quantized, naive-quantized
    weight_packed I32, weight_shape, weight_scale, …         pack-quantized, its bits told by the shapes
    weight_packed U8, weight_scale F8_E4M3, weight_global_scale    nvfp4-pack-quantized: divided by the last
    weight U8, weight_scale F8_E4M3, weight_scale_2          ModelOpt NVFP4: multiplied with the last
    weight_packed U8, weight_scale U8                        mxfp4-pack-quantized

Which one a matrix has is seen from its tensors, so that one checkpoint may have several.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from convert.json_types import JsonObject
from convert.source.unpack.fp8 import EIGHT, block_of
from convert.source.unpack.matrix import Matrix, Rows, as_floats, beside, numbers, require
from convert.source.unpack.scaled import less, scaled
from convert.source.unpack.unreadable import UnreadableError
from quantize import e2m1, integers

if TYPE_CHECKING:
    from convert.source.checkpoint import LazyTensor

SCALE = ".weight_scale"
BESIDE = ("weight_shape", "weight_zero_point", "weight_g_idx", "weight_global_scale", "weight_scale_2")
ACTIVATIONS = (
    *("input_scale", "input_zero_point", "input_global_scale", "output_scale", "output_zero_point"),
    *("input_scale_ub", "pre_quant_scale", "k_scale", "v_scale", "q_scale"),
)
CHANGED = {  # words that say that weights are something else than numbers times scales
    "sparsity_config": "sparse weights",
    "transform_config": "rotated weights",
}
ALIGNED = 32  # rows whose packed zero points fill whole words, whatever their bits


def matrices(raw: Mapping[str, LazyTensor], words: JsonObject) -> Iterator[Matrix]:
    """Every weight that has a scale."""
    for key, what in CHANGED.items():
        if words.get(key) and not _is_dense(words[key]):
            raise UnreadableError(f"{what} ({key}) are not read here")
    said = _Said.of(words)
    unused = tuple(name for name in raw if name.rpartition(".")[2] in ACTIVATIONS)
    if any(name.endswith(".pre_quant_scale") for name in raw):
        raise UnreadableError("scales of inputs that were taken out of the weights (pre_quant_scale) are not read here")
    for name, scale in raw.items():
        if name.endswith(SCALE):
            yield _Module(raw, name.removesuffix(SCALE), scale, said).matrix(unused)
            unused = ()


def _is_dense(words: object) -> bool:
    return isinstance(words, Mapping) and (words.get("format") == "dense" or words.get("config_groups") == {})


@dataclass(frozen=True)
class _Said:
    """What the groups of the config say that shapes alone do not tell."""

    block: tuple[int, int] | None = None
    bits: tuple[int, ...] = ()

    @classmethod
    def of(cls, words: JsonObject) -> _Said:
        """From config.json's quantization_config."""
        groups = words.get("config_groups")
        found = (
            [g.get("weights") for g in groups.values() if isinstance(g, Mapping)] if isinstance(groups, Mapping) else []
        )
        weights = [one for one in found if isinstance(one, Mapping)]
        blocks = [block_of(one["block_structure"]) for one in weights if one.get("block_structure") is not None]
        bits = {one["num_bits"] for one in weights if type(one.get("num_bits")) is int}
        return cls(blocks[0] if blocks else None, tuple(sorted(bits)))


@dataclass(frozen=True)
class _Module:
    """A linear layer and its tensors."""

    raw: Mapping[str, LazyTensor]
    name: str
    scale: LazyTensor
    said: _Said

    def matrix(self, unused: tuple[str, ...]) -> Matrix:
        """Its weight; `unused` are tensors of inputs, which count as read with it."""
        return replace(self._matrix(), unused=unused)

    def _matrix(self) -> Matrix:
        weight = self.raw.get(f"{self.name}.weight")
        if weight is None:
            packed = beside(self.raw, self.name, "weight_packed")
            return self._words(packed) if packed.dtype == "I32" else self._halves(packed)
        if weight.dtype == "U8":
            return self._halves(weight)
        if weight.dtype == "I8":
            return self._integers(weight)
        require(weight.dtype in EIGHT, weight, "F8_E4M3, I8 or U8")
        rows = scaled(
            lambda start, stop: as_floats(weight, slice(start, stop)), weight.shape, self.scale, self.said.block
        )
        return self._made(weight, weight.shape, rows)

    def _made(self, weight: LazyTensor, shape: tuple[int, ...], rows: Rows) -> Matrix:
        others = [self.raw[name] for word in BESIDE if (name := f"{self.name}.{word}") in self.raw]
        return Matrix(f"{self.name}.weight", shape, rows, (weight, self.scale, *others))

    def _other(self, word: str) -> LazyTensor | None:
        return self.raw.get(f"{self.name}.{word}")

    def _integers(self, weight: LazyTensor) -> Matrix:
        require(len(weight.shape) == 2, weight, "a matrix")
        values: Rows = lambda start, stop: numbers(weight, slice(start, stop)).astype(np.float32)  # noqa: E731
        if zero := self._other("weight_zero_point"):
            require(zero.shape == self.scale.shape and zero.dtype == "I8", zero, f"I8 {list(self.scale.shape)}")
            spread = numbers(zero).astype(np.float32).reshape(len(numbers(zero)), -1)
            each = _columns_each(zero, weight.shape[1], spread.shape[1])
            values = less(values, lambda start, stop: _some(spread, start, stop).repeat(each, 1))
        return self._made(weight, weight.shape, scaled(values, weight.shape, self.scale))

    def _words(self, packed: LazyTensor) -> Matrix:
        stated = beside(self.raw, self.name, "weight_shape")
        require(stated.dtype in ("I64", "I32") and stated.shape == (2,), stated, "I64 [2]")
        rows, columns = map(int, numbers(stated))
        known = [n for n in self.said.bits if 1 < n < 9 and packed.shape == (rows, -(-columns * n // 32))]
        require(len(known) == 1 and 0 < columns < 1 << 24, packed, f"the words of {[rows, columns]}")
        bits = known[0]
        index = self._groups(columns)

        def values(start: int, stop: int) -> np.ndarray:
            return integers.unpack(numbers(packed, slice(start, stop)), bits, columns).astype(np.float32)

        moved = less(values, self._zeros(rows, bits, index)) if self._other("weight_zero_point") else values
        scales = as_floats(self.scale)
        return self._made(packed, (rows, columns), lambda a, b: np.asarray(moved(a, b) * scales[a:b][:, index]))

    def _groups(self, columns: int) -> np.ndarray:
        """Which scale of its row a column has."""
        scale, order = self.scale, self._other("weight_g_idx")
        require(len(scale.shape) == 2, scale, "scales of rows and groups")
        if order is None:
            return np.arange(columns) // _columns_each(scale, columns, scale.shape[1])
        index = numbers(order).reshape(-1).astype(np.int64)
        fits = index.shape == (columns,) and index.min() >= 0 and index.max() < scale.shape[1]
        require(fits, order, f"a group of {scale.shape[1]} for each of {columns} columns")
        return index

    def _zeros(self, rows: int, bits: int, index: np.ndarray) -> Rows:
        zero = beside(self.raw, self.name, "weight_zero_point")
        require(zero.dtype == "I32" and zero.shape[-1] == self.scale.shape[1], zero, "packed zero points of the groups")

        def some(start: int, stop: int) -> np.ndarray:
            first, last = start // ALIGNED * ALIGNED, min(rows, -(-stop // ALIGNED) * ALIGNED)
            words = numbers(zero, slice(first * bits // 32, -(-last * bits // 32)))
            found = integers.unpack_zeros(words, bits, last - first)[start - first : stop - first]
            return found.astype(np.float32)[:, index]

        return some

    def _halves(self, packed: LazyTensor) -> Matrix:
        """NVFP4, which has a scale of the whole matrix, and MXFP4."""
        require(packed.dtype == "U8" and len(packed.shape) == 2, packed, "U8, two values to a byte")
        shape = packed.shape[0], 2 * packed.shape[1]
        group = e2m1.MXFP4_GROUP if self.scale.dtype in ("U8", "F8_E8M0") else e2m1.NVFP4_GROUP
        fits = self.scale.shape == (shape[0], shape[1] // group) and not shape[1] % group
        require(fits, self.scale, f"a scale for each {group} of {list(shape)}")
        divisor, factor = self._one("weight_global_scale"), self._one("weight_scale_2")

        def rows(start: int, stop: int) -> np.ndarray:
            scales = as_floats(self.scale, slice(start, stop))
            if divisor is not None:
                scales = scales / divisor
            if factor is not None:
                scales = scales * factor
            return np.asarray(e2m1.unpack(numbers(packed, slice(start, stop))) * scales.repeat(group, 1))

        return self._made(packed, shape, rows)

    def _one(self, word: str) -> np.float32 | None:
        found = self._other(word)
        return None if found is None else np.float32(as_floats(found).reshape(-1)[0])


def _columns_each(tensor: LazyTensor, columns: int, groups: int) -> int:
    require(groups > 0 and columns % groups == 0, tensor, f"groups that {columns} columns make whole")
    return columns // groups


def _some(rows: np.ndarray, start: int, stop: int) -> np.ndarray:
    return rows if len(rows) == 1 else rows[start:stop]
