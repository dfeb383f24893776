"""What a file is, read deeply enough to know that its parts are where it says: GGUF, safetensors, ONNX, JSON.

And where in it a range of bytes lies: which tensor a flipped bit has changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from convert.errors import InputError
from convert.formats.gguf.reader import read_gguf_header
from convert.source.safetensors import read_header
from convert.source.untrusted import MAX_JSON_BYTES, shown

ONNX_BYTES = 2 << 30  # what protobuf takes


@dataclass(frozen=True)
class Part:
    """A named range of a file."""

    name: str
    start: int
    stop: int


def problems(path: Path) -> list[str]:
    """What is wrong with the structure of a file, of a kind that is known; the hashes say the rest."""
    check = CHECKS.get(path.suffix)
    if check is None:
        return []
    try:
        return list(check(path))
    except InputError as error:
        return [str(error.problem).removeprefix(f"{path}: ")]
    except (ValueError, OSError, LookupError, TypeError, OverflowError, RecursionError, MemoryError) as error:
        return [f"cannot be read ({type(error).__name__}: {shown(str(error), 200)[1:-1]})"]


def parts(path: Path) -> list[Part]:
    """The tensors of a file by their place, the first first; none of a file that cannot be read."""
    reader = PARTS.get(path.suffix)
    try:
        return [] if reader is None else sorted(reader(path), key=lambda part: part.start)
    except (InputError, ValueError, OSError, LookupError, TypeError, OverflowError):
        return []


def named(found: Iterable[Part], start: int, stop: int) -> str:
    """What lies in a range, in words: one tensor, several, or the header."""
    touched = [part.name for part in found if part.start < stop and start < part.stop]
    if not touched:
        return ""
    return touched[0] if len(touched) == 1 else f"{touched[0]} to {touched[-1]}"


def _gguf(path: Path) -> Iterable[str]:
    """The header reads, every tensor has its place, and the last one ends with the file."""
    header = read_gguf_header(path)
    end = max((tensor.start + tensor.nbytes for tensor in header.tensors), default=0)
    size = path.stat().st_size
    if header.tensors and size - end >= 4096:  # padding is at most an alignment
        yield f"{size - end} bytes behind its last tensor"


def _safetensors(path: Path) -> Iterable[str]:
    read_header(path)  # which covers the file without gaps
    return ()


def _json(path: Path) -> Iterable[str]:
    if path.stat().st_size > MAX_JSON_BYTES:
        return
    json.loads(path.read_bytes())
    yield from ()


def _onnx(path: Path) -> Iterable[str]:
    """The graph parses, and each of its external tensors lies within a file beside it."""
    from importlib.util import find_spec

    if find_spec("onnx") is None or path.stat().st_size > ONNX_BYTES:
        return
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError, which is of no class of Python's
        raise ValueError(str(error)) from None
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            said = {entry.key: entry.value for entry in tensor.external_data}
            yield from _external(path, tensor.name, said)


def _external(path: Path, name: str, said: Mapping[str, str]) -> Iterable[str]:
    location = said.get("location", "")
    if not location or "/" in location or "\\" in location or location in ("..", "."):
        yield f"tensor {shown(name)} lies in {shown(location)}, wanted a file beside it"
        return
    file = path.with_name(location)
    end = int(said.get("offset", 0)) + int(said.get("length", 0))
    if not file.is_file():
        yield f"tensor {shown(name)} lies in {location}, which is not there"
    elif end > file.stat().st_size:
        yield f"tensor {shown(name)} ends at byte {end} of {location}, which has {file.stat().st_size}"


def _gguf_parts(path: Path) -> Iterable[Part]:
    header = read_gguf_header(path)
    first = min((tensor.start for tensor in header.tensors), default=0)
    yield Part("its header", 0, first)
    for tensor in header.tensors:
        yield Part(f"tensor {tensor.name}", tensor.start, tensor.start + tensor.nbytes)


def _safetensors_parts(path: Path) -> Iterable[Part]:
    header = read_header(path)
    yield Part("its header", 0, min((entry.start for entry in header.entries), default=0))
    for entry in header.entries:
        yield Part(f"tensor {entry.name}", entry.start, entry.stop)


CHECKS: Mapping[str, Callable[[Path], Iterable[str]]] = {
    ".gguf": _gguf,
    ".safetensors": _safetensors,
    ".json": _json,
    ".onnx": _onnx,
}
PARTS: Mapping[str, Callable[[Path], Iterable[Part]]] = {".gguf": _gguf_parts, ".safetensors": _safetensors_parts}
