"""The tensors of an MLX folder, decoded, beside those of the checkpoint it was made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from convert.errors import InputError
from convert.formats.facts import Hyperparameter, TensorPair
from convert.formats.mlx.existing import KEY, layout_of
from convert.formats.mlx.layout import Folder, ModelTensor, Scheme
from convert.source.checkpoint import CONFIG_NAME, LazyTensor, open_checkpoint, stored_tensors
from convert.source.untrusted import read_object
from quantize import floats
from quantize.mlx import decode
from quantize.mlx_layout import Encoded, Layout


def tensor_pairs(files: Sequence[Path], folder: Path) -> Iterator[TensorPair]:
    """Every tensor of the checkpoint in `folder` that the `files` hold too, in the checkpoint's order."""
    made = _Made(files, folder)
    for tensor in made.wanted.tensors:
        if made.has(tensor):
            yield made.pair(tensor)


def missing(files: Sequence[Path], folder: Path) -> Iterator[Hyperparameter]:
    """Whether each tensor of the model is there, as it is or quantized."""
    made = _Made(files, folder)
    for tensor in made.wanted.tensors:
        yield Hyperparameter(f"tensor {tensor.name}", "there", "there" if made.has(tensor) else "missing")


@dataclass(frozen=True)
class _Made:
    """What lies in the folder, and the checkpoint."""

    files: Sequence[Path]
    source: Path

    @cached_property
    def tensors(self) -> Mapping[str, LazyTensor]:
        return {name: tensor for file in self.files for name, tensor in stored_tensors(file).items()}

    @cached_property
    def wanted(self) -> Folder:
        """What is to be there; its layouts are not asked."""
        return Folder(open_checkpoint(self.source), Scheme())

    @cached_property
    def words(self) -> Mapping[str, object]:
        found = read_object(self.files[0].parent / CONFIG_NAME).get(KEY)
        return found if isinstance(found, dict) else {}

    def has(self, tensor: ModelTensor) -> bool:
        """Whether the file has it, in the shape that it should have."""
        return tensor.name in self.tensors and self._shape(tensor) == tensor.placed.shape

    def _shape(self, tensor: ModelTensor) -> tuple[int, ...]:
        shape = self.tensors[tensor.name].shape
        layout = self.layout(tensor)
        return shape if layout is None else (*shape[:-1], shape[-1] * 32 // layout.bits)

    def layout(self, tensor: ModelTensor) -> Layout | None:
        """How it is stored; None for floats."""
        if f"{tensor.module}.scales" not in self.tensors or not tensor.name.endswith(".weight"):
            return None
        own = self.words.get(tensor.module)
        return layout_of(own if isinstance(own, dict) else {k: v for k, v in self.words.items() if k in WORDS})

    def pair(self, tensor: ModelTensor) -> TensorPair:
        """A slab at a time."""
        layout = self.layout(tensor)
        kind = self.tensors[tensor.name].dtype if layout is None else f"MLX {layout.mode} {layout.bits} bits"

        def pieces(every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            del every
            yield from self._slabs(tensor, layout)

        return TensorPair(tensor.name, kind, tensor.placed.shape, pieces)

    def _slabs(self, tensor: ModelTensor, layout: Layout | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        at = 0
        for piece in tensor.placed.pieces:
            source = self.wanted.checkpoint.tensors[piece.source]
            seen = np.ascontiguousarray(piece.view.of(source.load(), self.wanted.text))
            own = floats.to_float32(seen) + np.float32(piece.view.plus)
            rows = own.reshape(-1, own.shape[-1]) if own.ndim > 1 else own.reshape(1, -1)
            mine = self._rows(tensor, layout, at, len(rows), rows.shape[1])
            at += len(rows)
            source.release()
            yield mine, rows

    def _rows(self, tensor: ModelTensor, layout: Layout | None, at: int, count: int, columns: int) -> np.ndarray:
        def part(word: str) -> np.ndarray:
            found = self.tensors[f"{tensor.module}.{word}"].load()
            return np.ascontiguousarray(found.reshape(-1, found.shape[-1])[at : at + count])

        if layout is None:
            flat = self.tensors[tensor.name].load().reshape(-1, columns)[at : at + count]
            return np.asarray(floats.to_float32(np.ascontiguousarray(flat)))
        if any(f"{tensor.module}.{word}" not in self.tensors for word in layout.parts):
            raise InputError(tensor.module, f"lacks one of {', '.join(layout.parts)}", "all of them")
        scales = part("scales") if len(layout.parts) == 2 else floats.to_float32(part("scales"))
        biases = floats.to_float32(part("biases")) if "biases" in layout.parts else None
        return decode(Encoded(part("weight"), scales, biases), layout)


WORDS = ("bits", "group_size", "mode")
