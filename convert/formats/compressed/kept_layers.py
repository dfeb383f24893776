"""What was made of each layer, on disk: what the finished folder is written from, and where a killed run goes on.

FOLDER/<layer>.safetensors          packed integers, scales, zero points, and norms that took factors
FOLDER/<layer>.factors.safetensors  by what columns are to be divided, and the scales that are divided later on
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.formats.compressed.scheme import Scheme
from convert.source.checkpoint import LazyTensor, open_files
from convert.source.safetensors import write
from quantize import packing
from quantize.grids import Quantized

WORDS = ("qweight", "qzeros", "g_idx")
TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int32): "I32"}
FACTORS = ".factors"


@dataclass(frozen=True)
class Scaled:
    """A matrix in integers whose columns were multiplied by `factors` (columns,)."""

    quantized: Quantized
    factors: np.ndarray

    def effective(self) -> np.ndarray:
        """float32 (rows, columns): what it amounts to where nothing in front of it has changed."""
        return np.asarray(self.quantized.dequantized() / self.factors, np.float32)


@dataclass(frozen=True)
class KeptLayers:
    """The folder of one run's layers; its name says of what model, by what method, and on what rows."""

    folder: Path

    def load(self, layer: str, scheme: Scheme) -> Mapping[str, np.ndarray] | None:
        """What the layer's matrices amount to, by their tensors' names; None where it was not made yet."""
        if not self._path(layer).is_file():
            return None
        packed, beside = open_files([self._path(layer)]), open_files([self._path(layer + FACTORS)])
        modules = [name.removesuffix(".factors") for name in beside if name.endswith(".factors")]
        found = {}
        for module in modules:
            parts = {
                word: np.array(packed[f"{module}.{word}"].load()) for word in WORDS if f"{module}.{word}" in packed
            }
            scales, factors = (np.array(beside[f"{module}.{word}"].load()) for word in ("scales", "factors"))
            found[f"{module}.weight"] = Scaled(unpacked(parts, scales, scheme), factors).effective()
        return found

    def save(self, layer: str, made: Mapping[str, np.ndarray], matrices: Mapping[str, Scaled]) -> None:
        """Keep a layer, all of it or nothing: the tensors of the folder, and its matrices as they were made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        beside = {f"{module}.factors": np.asarray(one.factors, np.float32) for module, one in matrices.items()}
        beside |= {f"{module}.scales": one.quantized.scales for module, one in matrices.items()}
        for name, tensors in ((layer + FACTORS, beside), (layer, made)):
            part = self._path(name).with_suffix(".part")
            part.unlink(missing_ok=True)  # of a run that was killed
            specs = {key: (TYPES[value.dtype], value.shape) for key, value in tensors.items()}
            write(part, specs, (np.ascontiguousarray(value).data for value in tensors.values()), {"format": "pt"})
            part.replace(self._path(name))

    def tensors(self) -> dict[str, LazyTensor]:
        """All that was made, by the checkpoint's names."""
        return open_files([path for path in sorted(self.folder.glob("*.safetensors")) if FACTORS not in path.name])

    def _path(self, layer: str) -> Path:
        return self.folder / f"{layer}.safetensors"


def packed_tensors(module: str, quantized: Quantized, scheme: Scheme) -> dict[str, np.ndarray]:
    """The tensors that readers of the scheme's layout want of a matrix."""
    scales = np.ascontiguousarray(quantized.scales.T)
    if scheme.method == "awq":
        words = {
            "qweight": packing.awq_words(quantized.integers),
            "qzeros": packing.awq_words(quantized.zeros),
            "scales": scales,
        }
    else:
        words = {
            "qweight": packing.gptq_weights(quantized.integers, scheme.bits),
            "qzeros": packing.gptq_zeros(quantized.zeros, scheme.bits),
            "scales": scales,
            "g_idx": quantized.groups().astype(np.int32),
        }
    return {f"{module}.{word}": value for word, value in words.items()}


def unpacked(parts: Mapping[str, np.ndarray], scales: np.ndarray, scheme: Scheme) -> Quantized:
    """What `packed_tensors` packed, with these scales."""
    if scheme.method == "awq":
        return Quantized(packing.awq_integers(parts["qweight"]), scales, packing.awq_integers(parts["qzeros"]))
    zeros = packing.gptq_zero_points(parts["qzeros"], scheme.bits)
    return Quantized(packing.gptq_integers(parts["qweight"], scheme.bits), scales, zeros, parts["g_idx"])
