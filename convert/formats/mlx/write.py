"""The weights of an MLX folder, written as they are encoded: a few million numbers in memory at a time.

A quantized matrix is read a slab at a time (an expert, or all of a matrix that is one), and a slab some rows at a time.
Its levels go to the file at once, its scales and biases, a sixteenth of that, when the last row is done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError
from convert.files import Buffer
from convert.formats.mlx.layout import Folder, ModelTensor
from convert.formats.mlx.rules import Piece
from convert.source.safetensors import write
from quantize import floats
from quantize.mlx import plain, rounded
from quantize.mlx_layout import Encoded, Layout

CHUNK = 1 << 22  # numbers


@dataclass(frozen=True)
class Slab:
    """A matrix of a piece: all of it, or one of those along its first axis, `number`."""

    piece: Piece
    number: int = 0


class Encoder(Protocol):
    """How matrices become numbers."""

    def rows(self, slab: Slab) -> int | None:
        """How many rows at a time; None for all of a slab."""

    def encode(self, slab: Slab, values: np.ndarray, layout: Layout, dtype: str) -> Encoded:
        """Rows of a slab, float32 numbers of the type `dtype`."""


class Plain:
    """As mx.quantize rounds."""

    def rows(self, slab: Slab) -> int | None:
        """As many as fit."""
        return 0

    def encode(self, slab: Slab, values: np.ndarray, layout: Layout, dtype: str) -> Encoded:
        """To the nearest level."""
        return plain(values, layout, dtype)


def write_weights(out: Path, folder: Folder, encoder: Encoder, advance: Callable[[int], None]) -> tuple[Artifact, ...]:
    """The files in `out`; `advance` is told of tensors. Raises InputError for numbers that are not finite."""
    writer = _Writer(folder, encoder)
    made = []
    for file, tensors in folder.shards.items():
        specs = {name: spec for tensor in tensors for name, spec in tensor.stored.items()}
        data = (part for tensor in tensors for part in writer.parts(tensor, advance))
        made.append(write(out / file, specs, data, {"format": "mlx"}))
    return tuple(made)


@dataclass(frozen=True)
class _Writer:
    folder: Folder
    encoder: Encoder

    def parts(self, tensor: ModelTensor, advance: Callable[[int], None]) -> Iterator[Buffer | Iterator[Buffer]]:
        """The bytes of the file's tensors of one of the model's, in order."""
        if tensor.layout is None:
            yield self._whole(tensor)
        else:
            scales: list[np.ndarray] = []
            biases: list[np.ndarray] = []
            yield self._levels(tensor, tensor.layout, scales, biases)
            for found in (scales, biases)[: len(tensor.layout.parts) - 1]:
                yield np.concatenate(found).data
        advance(1)

    def _whole(self, tensor: ModelTensor) -> Iterator[Buffer]:
        """One piece after the other, as it is but for its type."""
        for piece in tensor.placed.pieces:
            source = self.folder.checkpoint.tensors[piece.source]
            seen = piece.view.of(source.load(), self.folder.text)
            if source.dtype == tensor.dtype and not piece.view.plus:
                yield np.ascontiguousarray(seen).data
            else:
                wide = floats.to_float32(np.ascontiguousarray(seen)) + np.float32(piece.view.plus)
                yield _stored(wide, tensor.dtype).data
            source.release()

    def _levels(
        self, tensor: ModelTensor, layout: Layout, scales: list[np.ndarray], biases: list[np.ndarray]
    ) -> Iterator[Buffer]:
        """The levels of a quantized matrix; what belongs to them is left in the two lists, as bytes."""
        for slab, values in self._slabs(tensor):
            rows = self.encoder.rows(slab)
            each = len(values) if rows is None else rows or max(1, CHUNK // values.shape[1])
            for at in range(0, len(values), each):
                made = self._encoded(tensor, slab, values[at : at + each], layout)
                scales.append(_bytes(made.scales, tensor.dtype))
                if made.biases is not None:
                    biases.append(_bytes(made.biases, tensor.dtype))
                yield made.weight.data

    def _slabs(self, tensor: ModelTensor) -> Iterator[tuple[Slab, np.ndarray]]:
        """Matrices (rows, columns), as they are stored, mapped."""
        for piece in tensor.placed.pieces:
            source = self.folder.checkpoint.tensors[piece.source]
            seen = piece.view.of(source.load(), self.folder.text)
            for number, matrix in enumerate(seen.reshape(-1, *seen.shape[-2:]) if seen.ndim == 2 else seen):
                yield Slab(piece, number), matrix
            source.release()

    def _encoded(self, tensor: ModelTensor, slab: Slab, rows: np.ndarray, layout: Layout) -> Encoded:
        values = floats.to_float32(np.ascontiguousarray(rows))
        own = self.folder.checkpoint.tensors[slab.piece.source].dtype
        if own != tensor.dtype:
            with np.errstate(over="ignore"):
                values = rounded(values, tensor.dtype)
        if not np.isfinite(values).all():
            got = f"holds numbers that are not finite{'' if own == tensor.dtype else f' in {tensor.dtype}'}"
            raise InputError(slab.piece.source, got, "finite numbers", "is the checkpoint sound?")
        return self.encoder.encode(slab, values, layout, tensor.dtype)


def _bytes(values: np.ndarray, dtype: str) -> np.ndarray:
    """Scales and biases as the file has them: bytes are bytes already."""
    return values.reshape(-1) if values.dtype == np.uint8 else _stored(values, dtype).reshape(-1)


def _stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """The bytes of float32 values as a safetensors dtype has them."""
    encode = {"F32": floats.f32, "F16": floats.f16, "BF16": floats.bf16}[dtype]
    return np.ascontiguousarray(encode(values.reshape(1, -1)))
