"""A GGUF file before it is written: its header, byte for byte, and where each tensor will lie.

    magic "GGUF", version 3 (uint32), number of tensors, number of fields (uint64)
    fields       key, type (uint32), value; an array is item type (uint32), count (uint64), items
    infos        name, number of dimensions (uint32), dimensions (uint64, fastest first), type (uint32), offset (uint64)
    padding to a multiple of 32, where offset 0 is; every tensor is padded to a multiple of 32

A string is its length (uint64) and its UTF-8. Everything is little-endian. Source: ggml/docs/gguf.md.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from math import prod

from convert.formats.gguf.constants import ALIGNMENT, MAGIC, VERSION
from convert.gguf_field import Field, text_bytes
from quantize.blocks import BlockType


@dataclass(frozen=True)
class TensorInfo:
    """What the header says about a tensor; `shape` in numpy's order."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    why: str = ""  # the rule that picked the type

    @property
    def nbytes(self) -> int:
        return prod(self.shape[:-1]) * self.type.row_bytes(self.shape[-1])


@dataclass(frozen=True)
class FilePlan:
    """A GGUF file before it is written: everything is known but the tensors' values."""

    name: str  # of the file
    kind: str  # of its Artifact
    fields: tuple[Field, ...]
    infos: tuple[TensorInfo, ...]

    @functools.cached_property
    def header(self) -> bytes:
        """All bytes before the first tensor."""
        parts = [MAGIC, struct.pack("<IQQ", VERSION, len(self.infos), len(self.fields))]
        parts += [field.encoded for field in self.fields]
        offset = 0
        for info in self.infos:
            dimensions = struct.pack(f"<I{len(info.shape)}Q", len(info.shape), *reversed(info.shape))
            parts += [text_bytes(info.name), dimensions, struct.pack("<IQ", info.type.id, offset)]
            offset += padded(info.nbytes)
        header = b"".join(parts)
        return header + bytes(-len(header) % ALIGNMENT)

    @property
    def size(self) -> int:
        """The file's size in bytes."""
        return len(self.header) + sum(padded(info.nbytes) for info in self.infos)


def padded(size: int) -> int:
    """`size` and the bytes after it up to the next multiple of the alignment."""
    return size + -size % ALIGNMENT
