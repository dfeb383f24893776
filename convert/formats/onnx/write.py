"""Graph -> files: the graph itself, and beside it files of weights, or the checkpoint's own files, shared.

One weight is in memory at a time. Equal graphs give equal bytes: nothing written says when or where it was made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from convert.bundle import Artifact
from convert.errors import StageError
from convert.files import HashedFile
from convert.formats.onnx.layouts import Names
from convert.progress import Progress

INLINE_BYTES = 1024  # smaller tensors are part of the graph's file
PAGE_BYTES = 4096  # ONNX Runtime maps external data that starts on a page instead of reading it
PAGED_BYTES = 64 << 10  # what is smaller is not worth a page
ALIGNMENT = 64  # a cache line
FICLONE = 0x40049409  # linux/fs.h: one file's blocks under another's name, copied when either is changed
COPY_BYTES = 8 << 20


@dataclass(frozen=True)
class Placed:
    """A tensor's place in a file of weights."""

    name: str
    offset: int
    size: int
    piece: int = 0  # the number of the file


def layout(
    tensors: Mapping[str, ir.TensorProtocol], shared: Mapping[Path, str], piece_bytes: int | None = None
) -> list[Placed]:
    """Where each tensor goes in the graph's own files of weights: those that are not shared, and not inline.

    A file ends before it would be larger than `piece_bytes`; a tensor that is larger by itself has one of its own.
    """
    placed = []
    position = piece = 0
    for name, tensor in tensors.items():
        size = nbytes(tensor)
        if size < INLINE_BYTES or location(tensor, shared) is not None:
            continue
        position += -position % (PAGE_BYTES if size >= PAGED_BYTES else ALIGNMENT)
        if piece_bytes is not None and position and position + size > piece_bytes:
            position, piece = 0, piece + 1
        placed.append(Placed(name, position, size, piece))
        position += size
    return placed


def nbytes(tensor: ir.TensorProtocol) -> int:
    """Bytes of a tensor's values."""
    count = prod(int(str(size)) for size in tensor.shape)
    return (count * int(tensor.dtype.bitwidth) + 7) // 8


def location(tensor: ir.TensorProtocol, shared: Mapping[Path, str]) -> str | None:
    """The name of the shared file that holds the tensor; None where it has to be written."""
    if not isinstance(tensor, ir.ExternalTensor) or (tensor.offset or 0) % tensor.dtype.itemsize:
        return None
    return shared.get(Path(tensor.path))


def tensors_of(model: ir.Model) -> dict[str, ir.TensorProtocol]:
    """The initializers' values in order. Raises StageError for one without."""
    tensors = {}
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            raise StageError("onnx", f"weight {name} of {model.graph.name} has no tensor")
        tensors[name] = value.const_value
    return tensors


def write(
    model: ir.Model, folder: Path, names: Names, shared: Mapping[Path, str], progress: Progress
) -> tuple[Artifact, list[Artifact]]:
    """The graph's file and its files of weights, if it has any of its own. `model` is used up.

    `shared` maps checkpoint files to the names they have in `folder`. Raises StageError when onnx's own checker
    refuses the result.
    """
    tensors = tensors_of(model)
    placed = layout(tensors, shared, names.piece_bytes)
    pieces = groupby(placed, key=lambda place: place.piece)
    data = [_write_piece(folder / names.data(piece), places, tensors, progress) for piece, places in pieces]
    _point(model, {place.name: place for place in placed}, names, shared)
    _forget_shapes(model)
    proto = ir.to_proto(model)
    with HashedFile(folder / names.graph) as file:
        file.write(proto.SerializeToString(deterministic=True))
    check(folder / names.graph)
    return file.artifact(""), data


def _write_piece(
    path: Path, places: Iterable[Placed], tensors: Mapping[str, ir.TensorProtocol], progress: Progress
) -> Artifact:
    with HashedFile(path) as file:
        for place in places:
            file.write(bytes(place.offset - file.size))
            _write_tensor(file, tensors[place.name], place.size)
            progress.advance(place.size)
    return file.artifact("")


def _write_tensor(file: HashedFile, tensor: ir.TensorProtocol, size: int) -> None:
    before = file.size
    values = tensor.numpy() if tensor.dtype.bitwidth >= 8 else np.frombuffer(tensor.tobytes(), np.uint8)
    if values.size:
        file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    if file.size - before != size:
        raise StageError("onnx", f"{tensor.name} has {file.size - before} bytes, its type and shape say {size}")
    del values  # a view of the map
    if isinstance(tensor, ir.ExternalTensor):
        tensor.release()


def _point(model: ir.Model, placed: Mapping[str, Placed], names: Names, shared: Mapping[Path, str]) -> None:
    """Make the initializers point into the files."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None:
            continue
        shape, home = ir.Shape(tensor.shape), location(tensor, shared)
        if home is not None and isinstance(tensor, ir.ExternalTensor):
            value.const_value = ir.ExternalTensor(
                home, tensor.offset, tensor.length, tensor.dtype, shape=shape, name=name
            )
        elif name in placed:
            place = placed[name]
            value.const_value = ir.ExternalTensor(
                names.data(place.piece), place.offset, place.size, tensor.dtype, shape=shape, name=name
            )
        else:
            value.const_value = ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, shape=shape, name=name)


def _forget_shapes(model: ir.Model) -> None:
    """Drop the shapes of what flows between operators: every runtime finds them itself, and a pass may change them."""
    graph = model.graph
    inner = [output for node in graph for output in node.outputs if not output.is_graph_output()]
    for value in [*inner, *graph.initializers.values()]:  # a tensor says itself what it is
        value.shape = value.type = None


def check(path: Path) -> None:
    """Raise StageError unless onnx's checker takes the file at `path`.

    The checker refuses weights with two hard links, as shared ones have: it is shown files of the same names and sizes
    without content, for it looks at no weight.
    """
    with tempfile.TemporaryDirectory(prefix=".check", dir=path.parent) as scratch:
        folder = Path(scratch)
        shutil.copyfile(path, folder / path.name)
        graph = onnx.load(str(path), load_external_data=False).graph
        homes = {
            entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "location"
        }
        for name in homes:
            with open(folder / name, "wb") as file:
                file.truncate((path.parent / name).stat().st_size)
        try:
            onnx.checker.check_model(str(folder / path.name), full_check=False)
        except (onnx.checker.ValidationError, ValueError) as error:
            raise StageError("onnx", f"onnx's checker refuses {path.name} ({str(error).strip()[:300]})") from error


def share(files: Sequence[Artifact], folder: Path, progress: Progress) -> dict[Path, Artifact]:
    """The checkpoint's files as files of `folder` too, by their paths: cloned, else hard-linked, else copied."""
    made = {}
    for given in files:
        target = folder / given.path.name
        source = given.path.resolve()
        if not _cloned(source, target) and not _linked(source, target):
            progress.start(f"copying {given.path.name}: it is on another disk", given.size)
            for amount in _copied(source, target):
                progress.advance(amount)
        made[given.path] = Artifact("", target, given.size, given.sha256)
    return made


def _cloned(source: Path, target: Path) -> bool:
    """Whether the file system gave the bytes a second name of their own (btrfs, xfs): no link, no copy."""
    with open(source, "rb") as old:
        try:
            with open(target, "xb") as new:
                fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
                os.fsync(new.fileno())
        except OSError:
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
            return False
    return True


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def _copied(source: Path, target: Path) -> Iterator[int]:
    with open(source, "rb") as old, HashedFile(target) as new:
        while block := old.read(COPY_BYTES):
            new.write(block)
            yield len(block)
