"""The weights of ONNX graphs beside those of the checkpoint, stored as they may be: half, int8, blocks of int4."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.formats.facts import TensorPair
from convert.source.checkpoint import LazyTensor, open_checkpoint
from convert.source.untrusted import inside
from quantize.floats import to_float32

if TYPE_CHECKING:
    import onnx

BFLOAT16 = 16
STORED = {1: "<f4", 10: "<f2", BFLOAT16: "<u2", 2: "u1", 3: "i1"}
FLOATS = {1: "FP32", 10: "FP16", 16: "BF16"}  # TensorProto.DataType
# One spelling of names of transformers' modules and of onnxruntime-genai's builder.
SPELLINGS = (
    (re.compile(r"^(?:model\.)?language_model\.(?:model\.)?"), "model."),
    (re.compile(r"^(?:model\.)?visual\."), "visual."),
    (re.compile(r"^model\.lm_head\."), "lm_head."),
    (re.compile(r"\.MatMul\.weight"), ".weight"),
    (re.compile(r"\.Add\.bias"), ".bias"),
    (re.compile(r"\.attn\.(?=[qkvo]_proj)"), ".self_attn."),
    (re.compile(r"^model\.layers\.\d+\.final_norm_layernorm\."), "model.norm."),
)
FACTORS = "convert.factors"  # in the metadata of a graph whose norms took AWQ's factors
PACKED = re.compile(r"_(Q4|Q8|int8)$")


def tensor_pairs(files: Sequence[Path], folder: Path) -> Iterator[TensorPair]:
    """The weights of the graphs among `files` that are tensors of the checkpoint in `folder`."""
    import onnx

    sources = {spelled(name): tensor for name, tensor in open_checkpoint(folder).tensors.items()}
    for path in files:
        if path.suffix == ".onnx":
            graph = _Graph(onnx.load(path, load_external_data=False), path.parent)
            yield from graph.pairs(sources)


def spelled(name: str) -> str:
    """The one spelling of a weight's name."""
    for pattern, plain in SPELLINGS:
        name = pattern.sub(plain, name)
    return name


@dataclass(frozen=True)
class _Graph:
    model: onnx.ModelProto
    folder: Path

    def pairs(self, sources: Mapping[str, LazyTensor]) -> Iterator[TensorPair]:
        initializers = {t.name: t for t in self.model.graph.initializer}
        folded = any(entry.key == FACTORS for entry in self.model.metadata_props)
        tables = {n.input[0] for n in self.model.graph.node if n.op_type == "Gather"}
        for name, tensor in initializers.items():
            packed = PACKED.search(name)
            plain = spelled(PACKED.sub("", name))
            source = sources.get(plain)
            if source is None or (folded and (packed is None or packed[1] == "Q4")):
                continue  # with factors in norms and columns nothing is the checkpoint's by itself
            if packed is None and tensor.data_type in FLOATS:
                yield _pair(plain, FLOATS[tensor.data_type], source, partial(self._values, tensor, source))
            elif packed is not None and f"{PACKED.sub('', name)}_scales" in initializers:
                bits = 4 if packed[1] == "Q4" else 8
                decode = partial(self._blocks, initializers, name, bits, source)
                if packed[1] == "int8":
                    decode = partial(self._integers, initializers, name, name in tables)
                yield _pair(plain, f"INT{bits}", source, decode)

    def _array(self, tensor: onnx.TensorProto) -> np.ndarray:
        """The numbers of an initializer, bfloat16 as float32; data in other files are mapped."""
        kind, shape = STORED[tensor.data_type], tuple(tensor.dims)
        said = {entry.key: entry.value for entry in tensor.external_data}
        if said:
            file = inside(self.folder, said.get("location", ""), self.folder)
            found: np.ndarray = np.memmap(file, kind, "r", int(said.get("offset", "0")), shape)
        else:
            found = self._own(tensor)
        return to_float32(np.array(found)) if tensor.data_type == BFLOAT16 else np.array(found)

    def _own(self, tensor: onnx.TensorProto) -> np.ndarray:
        from onnx import numpy_helper

        if tensor.raw_data:
            return np.frombuffer(tensor.raw_data, STORED[tensor.data_type]).reshape(tuple(tensor.dims))
        return np.asarray(numpy_helper.to_array(tensor)).astype(STORED[tensor.data_type])

    def _values(self, tensor: onnx.TensorProto, source: LazyTensor) -> np.ndarray:
        found: np.ndarray = self._array(tensor).astype(np.float32)
        turned = found.ndim == 2 and found.shape != tuple(source.shape) and found.T.shape == tuple(source.shape)
        return found.T if turned else found

    def _integers(self, initializers: Mapping[str, onnx.TensorProto], name: str, rows: bool) -> np.ndarray:
        """int8 with a scale for each output; (inputs, outputs) but for a table."""
        found = self._array(initializers[name]).astype(np.float32)
        scales = self._array(initializers[f"{PACKED.sub('', name)}_scales"]).reshape(-1)
        return found * scales[:, None] if rows else np.ascontiguousarray((found * scales).T)

    def _blocks(
        self, initializers: Mapping[str, onnx.TensorProto], name: str, bits: int, source: LazyTensor
    ) -> np.ndarray:
        """(outputs, inputs) of blocks as MatMulNBits takes them: of two 4-bit numbers the first is in the low half."""
        start = PACKED.sub("", name)
        q = self._array(initializers[name])
        scales = self._array(initializers[f"{start}_scales"]).reshape(len(q), -1)
        zeros = initializers.get(f"{start}_zero_points")
        zero: np.ndarray = np.full(scales.shape, 1 << (bits - 1), np.float32)
        if zeros is not None:
            zero = _numbers(self._array(zeros).reshape(len(q), -1), bits)[:, : scales.shape[1]].astype(np.float32)
        numbers = _numbers(q, bits).reshape(*scales.shape, -1).astype(np.float32)
        whole: np.ndarray = (numbers - zero[:, :, None]) * scales[:, :, None]
        return whole.reshape(len(q), -1)[:, : source.shape[-1]]


def _numbers(packed: np.ndarray, bits: int) -> np.ndarray:
    if bits == 8:
        return packed
    return np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:-1], -1)


def _pair(name: str, kind: str, source: LazyTensor, stored: Callable[[], np.ndarray]) -> TensorPair:
    def pieces(every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        del every  # blocks and scales lie apart: a weight is decoded as a whole
        raw = source.load()
        own = to_float32(np.require(raw, requirements=("C", "A"))) if source.dtype == "BF16" else raw.astype(np.float32)
        mine = stored()
        if mine.shape == own.shape or mine.size == own.size:
            yield mine.reshape(own.shape), own

    return TensorPair(name, kind, tuple(source.shape), pieces)
