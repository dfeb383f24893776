"""What a weight file holds, from its header alone: safetensors, GGUF, and ONNX with its inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from convert.distribution import install_command
from convert.errors import InputError
from convert.gguf.reader import read_gguf_header
from convert.gguf.writer import MAGIC
from convert.safetensors import read_header
from convert.untrusted import shown

SHOWN_ITEMS = 4  # of an array
KINDS = "a .safetensors, .gguf or .onnx file"
SHOWN_TEXT = 100  # characters of a string


@dataclass(frozen=True)
class TensorSummary:
    """One tensor; `shape` with rows last but one, as in the checkpoint (GGUF writes it reversed)."""

    name: str
    type: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class TypeSummary:
    """All tensors of one type."""

    type: str
    tensors: int
    parameters: int
    nbytes: int
    bits_per_weight: float


@dataclass(frozen=True)
class Inspection:
    """A weight file. `types` are the largest first, `tensors` in the order of the header."""

    path: str
    format: str
    size: int
    metadata: Mapping[str, Any]  # numbers, texts, and tuples of them
    tensors: tuple[TensorSummary, ...]
    types: tuple[TypeSummary, ...]
    parameters: int
    tensor_bytes: int
    bits_per_weight: float

    def lines(self, *, verbose: bool = False) -> Iterator[str]:
        """The inspection as text; with `verbose` every tensor. Nothing in it can move a terminal's cursor."""
        yield f"{self.path}: {self.format}, {self.size:,} bytes"
        bits = f", {self.bits_per_weight:.2f} bits a weight" if self.tensors else ""
        yield f"{len(self.tensors)} tensors, {self.parameters:,} parameters{bits}"
        width = max((len(kind.type) for kind in self.types), default=0)
        for kind in self.types:
            counted = f"{kind.tensors:5} tensors  {kind.parameters:>15,} parameters  {kind.nbytes:>15,} bytes"
            yield f"  {kind.type:{width}}  {counted}  {kind.bits_per_weight:7.4f} bits a weight"
        for key, value in self.metadata.items():
            yield f"{plain(key)} = {_value(value)}"
        if verbose:
            for tensor in self.tensors:
                yield f"{plain(tensor.name)}  {tensor.type}  {list(tensor.shape)}  {tensor.nbytes:,} bytes"


def inspect_file(path: Path) -> Inspection:
    """What the safetensors or GGUF file at `path` holds. Raises InputError for one that is broken or neither."""
    if path.is_dir():
        raise InputError(str(path), "is a folder", "a .safetensors or .gguf file")
    try:
        with open(path, "rb") as file:
            start = file.read(9)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(str(path), f"cannot be read ({error.strerror})") from None
    if start.startswith(MAGIC) or path.suffix == ".gguf":
        gguf = read_gguf_header(path)
        tensors = tuple(TensorSummary(t.name, t.type.name, t.shape, t.nbytes) for t in gguf.tensors)
        return _inspection(path, f"GGUF {gguf.version}", size, {f.key: f.value for f in gguf.fields}, tensors)
    if path.suffix == ".onnx":
        return _onnx(path, size)
    if path.suffix == ".engine":
        remedy = "engine.json beside it says what it is"
        raise InputError(str(path), "is a TensorRT engine, which only TensorRT reads", KINDS, remedy)
    if path.suffix != ".safetensors" and start[:2] in (b"PK", b"\x80\x02"):
        raise InputError(str(path), "is a pickle", KINDS, "use it as a recipe's model instead")
    # A safetensors file begins with the length of its header, 8 bytes, and the header's brace.
    if path.suffix != ".safetensors" and start and (start[8:] != b"{" or start[6:8] != b"\0\0"):
        raise InputError(str(path), "is none of them", KINDS)
    header = read_header(path)
    tensors = tuple(TensorSummary(e.name, e.dtype, e.shape, e.stop - e.start) for e in header.entries)
    return _inspection(path, "safetensors", size, header.metadata, tensors)


def _onnx(path: Path, size: int) -> Inspection:
    """A graph: what goes in, what comes out, which operators it needs and which files its weights are in."""
    from importlib.util import find_spec

    if find_spec("onnx") is None:
        raise InputError(str(path), "needs onnx to be read", "", install_command("onnx"))
    from convert.onnx.header import read_onnx

    metadata, tensors = read_onnx(path)
    return _inspection(path, "ONNX", size, metadata, tuple(TensorSummary(*tensor) for tensor in tensors))


def _inspection(
    path: Path, form: str, size: int, metadata: Mapping[str, Any], tensors: tuple[TensorSummary, ...]
) -> Inspection:
    parameters = sum(prod(t.shape) for t in tensors)
    total = sum(t.nbytes for t in tensors)
    return Inspection(
        str(path),
        form,
        size,
        metadata,
        tensors,
        type_summaries(tensors),
        parameters,
        total,
        8 * total / parameters if parameters else 0.0,
    )


def type_summaries(tensors: Iterable[TensorSummary]) -> tuple[TypeSummary, ...]:
    """The tensors counted by type, the type with most bytes first."""
    groups: dict[str, list[TensorSummary]] = {}
    for tensor in tensors:
        groups.setdefault(tensor.type, []).append(tensor)
    kinds = (_type_summary(kind, group) for kind, group in groups.items())
    return tuple(sorted(kinds, key=lambda kind: (-kind.nbytes, kind.type)))


def _type_summary(kind: str, tensors: Sequence[TensorSummary]) -> TypeSummary:
    parameters = sum(prod(t.shape) for t in tensors)
    total = sum(t.nbytes for t in tensors)
    return TypeSummary(kind, len(tensors), parameters, total, 8 * total / parameters if parameters else 0.0)


def plain(name: str) -> str:
    """A name without quotes where it is harmless, escaped where it is not."""
    return name if name.isprintable() and len(name) <= SHOWN_TEXT else shown(name, SHOWN_TEXT)


def _value(value: object) -> str:
    if isinstance(value, str):
        return shown(value, SHOWN_TEXT)
    if isinstance(value, tuple):
        items = ", ".join(map(_value, value[:SHOWN_ITEMS]))
        return f"[{items}{', …' if len(value) > SHOWN_ITEMS else ''}] ({len(value)})"
    return f"{value:g}" if isinstance(value, float) else str(value)
