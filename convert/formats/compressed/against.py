"""The tensors of a GPTQ, AWQ or compressed-tensors folder beside those of the checkpoint it was made of.

AWQ multiplies columns by factors that the norm in front, or the rows of the matrix in front, are divided by: both are
taken back before a matrix is compared, so that what is left is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from convert import architectures
from convert.architectures import TensorRole
from convert.errors import InputError
from convert.formats.compressed.folder import TAKES_FACTORS, canonical, values
from convert.formats.compressed.groups import source_rows
from convert.formats.compressed.straight import CompressedScheme
from convert.formats.facts import Hyperparameter, TensorPair
from convert.json_types import JsonObject
from convert.source.checkpoint import CONFIG_NAME, STORAGE, Checkpoint, LazyTensor, open_checkpoint
from convert.source.safetensors import Entry, read_header
from convert.source.untrusted import read_object
from quantize import packing
from quantize.gptq_layout import LAYER
from quantize.grids import Quantized
from quantize.presets import QUANT_METHOD, Preset, preset_of

BEHIND = {  # the norm that a matrix stands behind
    **dict.fromkeys((TensorRole.Q, TensorRole.K, TensorRole.V, TensorRole.QKV), TensorRole.ATTENTION_NORM),
    **dict.fromkeys((TensorRole.GATE, TensorRole.UP, TensorRole.GATE_UP), TensorRole.MLP_NORM),
}
IN_FRONT = {TensorRole.DOWN: TensorRole.UP, TensorRole.O: TensorRole.V}  # whose rows took a matrix' factors
LEAST = 1e-6


def tensor_pairs(files: Sequence[Path], folder: Path) -> Iterator[TensorPair]:
    """Every tensor of the checkpoint in `folder` that the `files` hold too, in the checkpoint's order."""
    made = _Made(files, open_checkpoint(folder))
    for name, tensor in made.checkpoint.tensors.items():
        plain = canonical(name)
        module = plain.removesuffix(".weight")
        if f"{module}.weight_scale" in made.entries:
            if made.preset is not None:
                yield _pair(plain, made.type, tensor, partial(made.compressed, module))
        elif plain in made.entries:
            if made.took_factors(name):
                yield _pair(plain, f"{made.method.upper()} Int{made.bits}", tensor, partial(made.bias, name))
            elif not (made.scaled and made.roles.get(name) in TAKES_FACTORS):
                yield _pair(plain, made.type_of(plain), tensor, partial(made.float, plain))
        elif f"{module}.qweight" in made.entries and made.bits in packing.GPTQ_BITS:
            yield _pair(plain, f"{made.method.upper()} Int{made.bits}", tensor, partial(made.matrix, name, module))


def _without_gains(matrix: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The matrix with the factors of its columns taken back that no table tells: norms that several blocks share."""
    if matrix.shape != own.shape:
        return matrix
    power = np.maximum((own * own).sum(0), LEAST)
    gains = (matrix * own).sum(0) / power
    plain = matrix / np.where(np.abs(gains) > LEAST, gains, 1)
    before, after = (float(np.square(one - own).sum()) for one in (matrix, plain))
    return np.asarray(plain, np.float32) if after < before / 4 else matrix


def missing(files: Sequence[Path], folder: Path) -> Iterator[Hyperparameter]:
    """Whether each tensor of the checkpoint is there, as it is or quantized; a tied head may be left out."""
    made = _Made(files, open_checkpoint(folder))
    tied = made.checkpoint.config.get("tie_word_embeddings", False)
    for name in made.checkpoint.tensors:
        plain = canonical(name)
        module = plain.removesuffix(".weight")
        there = any(f"{module}.{suffix}" in made.entries for suffix in ("qweight", "weight_packed"))
        there = there or plain in made.entries
        if not (tied and plain == "lm_head.weight"):
            yield Hyperparameter(f"tensor {plain}", "there", "there" if there else "missing")
    yield from made.orders()
    yield from made.group_sizes()


def _pair(name: str, kind: str, tensor: LazyTensor, stored: Callable[[], np.ndarray]) -> TensorPair:
    def pieces(every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        del every  # packed along either axis: a matrix is decoded as a whole
        mine, own = stored(), values(tensor).astype(np.float32)
        if mine.shape != own.shape:
            raise InputError(name, f"has the shape {list(mine.shape)}", str(list(own.shape)))
        yield mine, own

    return TensorPair(name, kind, tuple(tensor.shape), pieces)


@dataclass(frozen=True)
class _Made:
    """What lies in the folder, by canonical names, and the checkpoint it was made of."""

    files: Sequence[Path]
    checkpoint: Checkpoint

    @cached_property
    def words(self) -> JsonObject:
        found = read_object(self.files[0].parent / CONFIG_NAME).get("quantization_config")
        return found if isinstance(found, dict) else {}

    @property
    def method(self) -> str:
        return str(self.words.get("quant_method", ""))

    @property
    def bits(self) -> object:
        return self.words.get("bits", self.words.get("w_bit"))

    @cached_property
    def preset(self) -> Preset | None:
        """How compressed-tensors stored the matrices, where it did."""
        return preset_of(self.words) if self.method == QUANT_METHOD else None

    @property
    def type(self) -> str:
        """As in artifact kinds."""
        return "" if self.preset is None else CompressedScheme.of(self.preset).type

    def compressed(self, module: str) -> np.ndarray:
        """(rows, columns) of a module that compressed-tensors stored."""
        assert self.preset is not None  # asked for before
        found = [name for name in self.entries if name.rpartition(".")[0] == module]
        return self.preset.encoding.decode({name.rpartition(".")[2]: self.raw(name) for name in found})

    @cached_property
    def entries(self) -> Mapping[str, tuple[Path, Entry]]:
        return {canonical(e.name): (file, e) for file in self.files for e in read_header(file).entries}

    @cached_property
    def roles(self) -> Mapping[str, TensorRole]:
        return architectures.roles(self.checkpoint.config, self.checkpoint.tensors).of

    def type_of(self, name: str) -> str:
        return self.entries[name][1].dtype

    def raw(self, name: str) -> np.ndarray:
        file, entry = self.entries[name]
        data = np.memmap(file, np.uint8, "r", entry.start, (entry.stop - entry.start,))
        kind = STORAGE.get(entry.dtype, np.dtype("u1"))
        return np.array(data).view(kind).reshape(entry.shape)

    def float(self, name: str) -> np.ndarray:
        """float32 of a tensor of floats."""
        raw, dtype = self.raw(name), self.type_of(name)
        if dtype == "BF16":
            return (raw.astype(np.uint32) << 16).view(np.float32)
        return np.asarray(raw, np.float32)

    def matrix(self, name: str, module: str) -> np.ndarray:
        """(rows, columns) of a quantized module, by the checkpoint's name for its weight."""
        matrix = self.stored(module)
        return self.plain(name, matrix) if self.scaled else matrix

    def stored(self, module: str) -> np.ndarray:
        """(rows, columns) as it is in the folder."""
        return self.gptq(module) if self.method == "gptq" else self.awq(module)

    @property
    def scaled(self) -> bool:
        """Whether columns were multiplied by AWQ's factors."""
        meta = self.words.get("meta")
        return self.method == "awq" or (isinstance(meta, dict) and meta.get("factors") is True)

    def took_factors(self, name: str) -> bool:
        """Whether a bias belongs to a matrix whose rows took factors."""
        return self.scaled and name.endswith(".bias") and self.roles.get(name) in IN_FRONT.values()

    def bias(self, name: str) -> np.ndarray:
        """(rows,) with the factors of the rows taken back."""
        weight = name.removesuffix("bias") + "weight"
        return np.asarray(self.float(canonical(name)) / self._row_gains(weight), np.float32)

    def gptq(self, module: str) -> np.ndarray:
        """(rows, columns) = scale * (q - zero), by the layout in quantize/gptq_layout.py."""
        integers, zeros = packing.gptq_integers(self.raw(f"{module}.qweight"), int(str(self.bits))), self._zeros(module)
        groups = self.raw(f"{module}.g_idx").astype(np.int64) % zeros.shape[1]
        return Quantized(integers, self.float(f"{module}.scales").T, zeros, groups).dequantized()

    def _zeros(self, module: str) -> np.ndarray:
        """(rows, groups): GPTQ's zero points, which the first format stores less one."""
        second = self.words.get("checkpoint_format", self.words.get("format")) == "gptq_v2"
        return packing.gptq_zero_points(self.raw(f"{module}.qzeros"), int(str(self.bits)), 2 if second else 1)

    def awq(self, module: str) -> np.ndarray:
        """(rows, columns), by the layout in quantize/awq_layout.py."""
        integers, zeros = (packing.awq_integers(self.raw(f"{module}.{word}")) for word in ("qweight", "qzeros"))
        return Quantized(integers, self.float(f"{module}.scales").T, zeros).dequantized()

    def orders(self) -> Iterator[Hyperparameter]:
        """Of GPTQ, what config.json promises of groups and zero points, of each quantized matrix."""
        if self.method != "gptq" or self.bits not in packing.GPTQ_BITS:
            return
        for name in self.entries:
            module, _, suffix = name.rpartition(".")
            if suffix == "g_idx" and not self.words.get("desc_act"):
                found = self.raw(name)
                each = -(-len(found) // len(self.raw(f"{module}.scales")))
                in_order = np.array_equal(found, np.arange(len(found)) // each)
                yield Hyperparameter(
                    f"tensor {name}", "groups in order", "groups in order" if in_order else "another order"
                )
            if suffix == "qzeros" and self.words.get("sym"):
                middle, found = 2 ** (int(str(self.bits)) - 1), self._zeros(module)
                yield Hyperparameter(
                    f"zero points of {module}", middle, middle if (found == middle).all() else found[0, 0]
                )

    def group_sizes(self) -> Iterator[Hyperparameter]:
        """How many columns share a scale, by config.json and by the tensors: loaders believe the one or the other."""
        said = self.words.get("group_size", self.words.get("q_group_size"))
        rules = self.words.get("dynamic") or {}
        ruled = isinstance(rules, dict) and any(not rule.startswith("-:") for rule in rules)
        if (
            self.method not in ("gptq", "awq")
            or self.bits not in packing.GPTQ_BITS
            or not isinstance(said, int)
            or ruled
        ):
            return
        each = {module: self._columns_of_a_group(module) for module in self._modules()}
        wrong = [size for size, columns in each.values() if size != (columns if said < 1 else min(said, columns))]
        if each:
            yield Hyperparameter("quantization_config.group_size", wrong[0] if wrong else said, said)

    def _modules(self) -> Iterator[str]:
        """Those that hold packed numbers and their scales."""
        modules = (name.removesuffix(".qweight") for name in self.entries if name.endswith(".qweight"))
        return (module for module in modules if f"{module}.scales" in self.entries)

    def _columns_of_a_group(self, module: str) -> tuple[int, int]:
        """Columns that share a scale, and how many columns there are."""
        packed = self.entries[f"{module}.qweight"][1].shape[0]
        columns = packed * 32 // int(str(self.bits)) if self.method == "gptq" else packed
        return -(-columns // self.entries[f"{module}.scales"][1].shape[0]), columns

    # ---- AWQ's factors

    def plain(self, name: str, matrix: np.ndarray) -> np.ndarray:
        """The matrix with AWQ's factors taken back."""
        role = self.roles.get(name)
        norm = self._beside(name, BEHIND[role]) if role in BEHIND else None
        if norm is not None:
            own, mine = values(self.checkpoint.tensors[norm]).astype(np.float32), self.float(canonical(norm))
            matrix = matrix * np.divide(mine, own, out=np.ones_like(own), where=np.abs(own) > LEAST)
        front = self._beside(name, IN_FRONT[role]) if role in IN_FRONT else None
        if front is not None:
            source = source_rows(self.checkpoint.tensors[front].shape[0], matrix.shape[1], self._heads)
            matrix = matrix * self._row_gains(front)[source.rows] if source is not None else matrix
        if role in IN_FRONT.values():
            matrix = matrix / self._row_gains(name)[:, None]
        return _without_gains(matrix, values(self.checkpoint.tensors[name]).astype(np.float32))

    @cached_property
    def _heads(self) -> int:
        config = self.checkpoint.config
        text = config.get("text_config")
        found = (text if isinstance(text, dict) else config).get("num_attention_heads")
        return found if isinstance(found, int) else 0

    def _row_gains(self, name: str) -> np.ndarray:
        """The factor of each row against the source's, without its sign; 1 where nothing is left of a row."""
        module = canonical(name).removesuffix(".weight")
        norm = self._beside(name, BEHIND[self.roles[name]])
        mine, own = self.stored(module), values(self.checkpoint.tensors[name]).astype(np.float32)
        if norm is not None:
            source = values(self.checkpoint.tensors[norm]).astype(np.float32)
            mine = mine * np.divide(
                self.float(canonical(norm)), source, out=np.ones_like(source), where=np.abs(source) > LEAST
            )
        gain = np.abs((mine * own).sum(1)) / np.maximum((own * own).sum(1), LEAST)
        return np.where(gain > 0.05, gain, 1.0).astype(np.float32)

    def _beside(self, name: str, role: TensorRole) -> str | None:
        """The weight of this role in the same layer."""
        layer = LAYER.search(name)
        return next(
            (
                other
                for other, its in self.roles.items()
                if its is role
                and other.endswith(".weight")
                and layer
                and (found := LAYER.search(other))
                and found[1] == layer[1]
            ),
            None,
        )
