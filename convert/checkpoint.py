"""A Hugging Face checkpoint on disk: its config and its tensors, mapped, never loaded whole."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STORAGE = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape is known and whose bytes are not read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, F16, BF16, ...
    load: Callable[[], np.ndarray]  # STORAGE[dtype] values of `shape`, a view of the mapped file; BF16 as its 16 bits
    file: str = ""  # where it comes from, for messages

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * STORAGE[self.dtype].itemsize


@dataclass(frozen=True)
class Checkpoint:
    folder: Path
    config: Mapping[str, Any]  # config.json, as it is
    tensors: Mapping[str, LazyTensor]  # in the order of the files


def open_checkpoint(folder: Path) -> Checkpoint:
    tensors: dict[str, LazyTensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, stop = (8 + size + o for o in entry["data_offsets"])

            def load(
                path: Path = path,
                start: int = start,
                dtype: np.dtype = STORAGE[entry["dtype"]],
                shape: tuple[int, ...] = tuple(entry["shape"]),
            ) -> np.ndarray:
                return np.memmap(path, dtype, "r", start, shape) if shape else np.fromfile(path, dtype, 1, offset=start)

            tensors[name] = LazyTensor(name, tuple(entry["shape"]), entry["dtype"], load, path.name)
    return Checkpoint(folder, json.loads((folder / "config.json").read_text()), tensors)
