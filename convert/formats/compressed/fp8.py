"""An FP8 folder, written straight from the checkpoint: nothing is run, one tensor in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError
from convert.formats.compressed.folder import FolderTensor, Layout, as_stored, values, write_shards
from quantize import fp8

FLOATS = ("BF16", "F16", "F32")


@dataclass(frozen=True)
class Fp8Layout(Layout):
    """All that will be written."""

    def _tensors(self) -> Iterator[FolderTensor]:
        taken = set(self.decision.quantized)
        for name, tensor in self.checkpoint.tensors.items():
            module, _, suffix = name.rpartition(".")
            if module not in taken or suffix != "weight":
                yield FolderTensor(self.spelled(name), tensor.dtype, tensor.shape, "", name)
                continue
            for word, (dtype, shape) in fp8.packed(tensor.shape, tensor.dtype).items():
                yield FolderTensor(self.spelled(f"{module}.{word}", name), dtype, shape, module, name)

    def check(self) -> None:
        """Raise ConvertError for a model whose layers are of another kind, and for one that is quantized already."""
        self.check_layers()
        for module in self.decision.quantized:
            tensor = self.checkpoint.tensors[f"{module}.weight"]
            if tensor.dtype not in FLOATS:
                raise InputError(tensor.name, f"is stored as {tensor.dtype}", f"one of {', '.join(FLOATS)}")


def write_weights(out: Path, layout: Fp8Layout) -> tuple[Artifact, ...]:
    """The weights' files in `out`. Raises InputError for a matrix that holds numbers that are not finite."""

    def data(tensor: FolderTensor) -> np.ndarray:
        source = layout.checkpoint.tensors[tensor.source]
        if not tensor.module:
            return np.ascontiguousarray(source.load())
        matrix = values(source)
        scale = _scale(tensor, matrix, source.dtype)
        if tensor.suffix == "weight_scale":
            return as_stored(scale, source.dtype)
        return _encode(matrix, float(scale[0]))

    return write_shards(out, layout, data)


def _scale(tensor: FolderTensor, matrix: np.ndarray, dtype: str) -> np.ndarray:
    """float32 (1,): the matrix's largest value over E4M3's, as the stored type will give it back."""
    largest = float(np.abs(matrix).max(initial=0.0))
    if not np.isfinite(largest):
        raise InputError(tensor.name, "holds numbers that are not finite", "finite numbers", "is the checkpoint sound?")
    raw = as_stored(np.array([largest / fp8.LARGEST or 1.0], np.float32), dtype)
    scale = (raw.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else raw.astype(np.float32)
    return scale if scale[0] > 0 else np.array([np.finfo(np.float16).tiny], np.float32)


def _encode(matrix: np.ndarray, scale: float) -> np.ndarray:
    """The bytes of E4M3, nearest values, ties to even; what is beyond the largest becomes it."""
    import torch

    scaled = torch.from_numpy(matrix / np.float32(scale)).clamp(-fp8.LARGEST, fp8.LARGEST)
    return scaled.to(torch.float8_e4m3fn).view(torch.uint8).numpy()  # type: ignore[no-any-return]
