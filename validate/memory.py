"""How much memory there is, and how much a reference takes: read from headers, before anything is loaded."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

FREE_SHARE = 0.8  # of the free memory that weights may take: activations, logits and candidates need the rest
MAX_HEADER_BYTES = 100 << 20  # safetensors' own limit
_HALF = {"BF16": "bfloat16", "F16": "float16"}
_LAYER = re.compile(r"^.*?\.\d+\.")  # what the tensors of a layer begin with: model.layers.3.
_LARGE = 1 << 22  # values of a matrix that is read for itself
_GROUP = Path("/sys/fs/cgroup")  # a container sees its own limits here


@dataclass(frozen=True)
class Weights:
    """What a checkpoint's weights take in memory."""

    full_bytes: int  # all as float32
    half_bytes: int  # the text's matrices as stored, all else float32; as above where they are not stored in 16 bits
    half_type: str  # torch's name of the 16-bit type; empty where the matrices are not all of one
    layered_bytes: int  # float32 of what is there at once where one layer is read at a time


def weights(files: Iterable[Path]) -> Weights:
    """From the headers of safetensors files; a file that is none counts nothing, whoever loads it says so."""
    return weights_of(tensor for file in files for tensor in _tensors(file))


def weights_of(found: Iterable[tuple[str, str, Sequence[int]]]) -> Weights:
    """From each tensor's name, safetensors type and shape."""
    tensors = list(found)
    kinds = {dtype for _, dtype, shape in tensors if len(shape) >= 2}
    half = _HALF.get(next(iter(kinds)), "") if len(kinds) == 1 else ""
    full = sum(4 * prod(shape) for _, _, shape in tensors)
    saved = sum(2 * prod(shape) for name, _, shape in tensors if len(shape) == 2 and not _is_vision(name))
    return Weights(full, full - saved if half else full, half, _layered(tensors))


def _layered(tensors: Iterable[tuple[str, str, Sequence[int]]]) -> int:
    """The largest layer, or the largest matrix outside of layers, and all that is small."""
    sizes, rest = dict[str, int](), 0
    for name, _, shape in tensors:
        if found := _LAYER.match(name):
            sizes[found[0]] = sizes.get(found[0], 0) + 4 * prod(shape)
        elif prod(shape) >= _LARGE:
            sizes[name] = 4 * prod(shape)
        else:
            rest += 4 * prod(shape)
    return max(sizes.values(), default=0) + rest


def parameters(files: Iterable[Path], vision: bool = False) -> int:
    """How many weights the text of a checkpoint has, with `vision` its tower too, from the headers of its files."""
    tensors = [(name, shape) for file in files for name, _, shape in _tensors(file)]
    return sum(prod(shape) for name, shape in tensors if vision or not _is_vision(name))


def _is_vision(name: str) -> bool:
    return any(part in ("visual", "vision_tower", "vision_model") for part in name.split("."))


def _tensors(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError), open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length <= min(MAX_HEADER_BYTES, path.stat().st_size):
            for name, entry in json.loads(file.read(length)).items():
                if name != "__metadata__":
                    yield name, str(entry["dtype"]), [int(n) for n in entry["shape"]]


def free_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not say."""
    limit, used = _number(_GROUP / "memory.max"), _number(_GROUP / "memory.current")
    cached = _lines(_GROUP / "memory.stat").get("file", 0)  # given back when it is needed
    left = None if limit is None or used is None else limit - used + cached
    return _least(_meminfo("MemAvailable"), left)


def total_bytes() -> int | None:
    """Memory there is at all; None where the system does not say."""
    return _least(_meminfo("MemTotal"), _number(_GROUP / "memory.max"))


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)


def _meminfo(name: str) -> int | None:
    kilobytes = _lines(Path("/proc/meminfo")).get(f"{name}:")
    return None if kilobytes is None else kilobytes * 1024


def _lines(path: Path) -> dict[str, int]:
    """The first two words of each line: a name and a number."""
    with contextlib.suppress(OSError, ValueError):
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
        return {row[0]: int(row[1]) for row in rows if len(row) >= 2}
    return {}


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="ascii"))  # "max" where there is no limit
    return None
