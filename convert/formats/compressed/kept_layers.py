"""What was made of each layer, on disk: what the finished folder is written from, and where a killed run goes on.

FOLDER/<layer>.safetensors            packed integers, scales, zero points, and norms that took factors
FOLDER/<layer>.effective.safetensors  float32 of what the integers amount to, until the run is over
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

TYPES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16", np.dtype(np.int32): "I32"}
EFFECTIVE = ".effective"


@dataclass(frozen=True)
class KeptLayers:
    """The folder of one run's layers; its name says of what model, by what method, and on what rows."""

    folder: Path

    def load(self, layer: str) -> Mapping[str, np.ndarray] | None:
        """What the layer's matrices amount to; None where it was not made yet."""
        if not self._path(layer).is_file():
            return None
        found = open_files([self._path(layer + EFFECTIVE)])
        return {name: np.array(tensor.load()) for name, tensor in found.items()}

    def save(self, layer: str, made: Mapping[str, np.ndarray], effective: Mapping[str, np.ndarray]) -> None:
        """Keep a layer, all of it or nothing."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in ((layer + EFFECTIVE, effective), (layer, made)):
            part = self._path(name).with_suffix(".part")
            part.unlink(missing_ok=True)  # of a run that was killed
            specs = {key: (TYPES[value.dtype], value.shape) for key, value in tensors.items()}
            write(part, specs, (np.ascontiguousarray(value).data for value in tensors.values()), {"format": "pt"})
            part.replace(self._path(name))

    def tensors(self) -> dict[str, LazyTensor]:
        """All that was made, by the checkpoint's names."""
        return open_files([path for path in sorted(self.folder.glob("*.safetensors")) if EFFECTIVE not in path.name])

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
