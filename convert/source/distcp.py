"""torch's distributed checkpoints (FSDP's, `.distcp`): tensors in chunks, and a pickled index, read without torch.

`.metadata` says of every tensor its type, size and chunks, and of every chunk in which file it lies and where. What
stands there is what torch.save writes of one tensor. Source: torch, distributed/checkpoint/metadata.py, filesystem.py.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from convert.errors import InputError
from convert.files import open_regular
from convert.source.checkpoint import LazyTensor
from convert.source.names import plain_name, unused
from convert.source.pickle_scan import DTYPES
from convert.source.pieces import Block, block_tensor
from convert.source.untrusted import inside, read_bytes, shown

INDEX = ".metadata"
HOMES = ("", "pytorch_model_fsdp_0", "dist_ckpt")  # where trainers put it, below the folder with config.json
MOST_BYTES = 1 << 30
STATES = ("optim.", "optimizer.", "optimizers.", "lr_scheduler.", "scheduler.", "train_state", "dataloader", "rng")
WANTED = "a distributed checkpoint as torch writes it"


def home_of(folder: Path) -> Path | None:
    """Where in a checkpoint's folder such an index lies; None where there is none."""
    return next((folder / name for name in HOMES if (folder / name / INDEX).is_file()), None)


def files_of(home: Path) -> list[Path]:
    """The index and the chunks' files."""
    return [home / INDEX, *sorted(home.glob("*.distcp"))]


def tensors_of(home: Path) -> dict[str, LazyTensor]:
    """The model's tensors, by their plain names; optimizers' are left out. Raises InputError."""
    metadata = _read(home)
    tensors: dict[str, LazyTensor] = {}
    places = _places(home, metadata)
    for name, about in _mapping(home, metadata.get("state_dict_metadata")).items():
        plain = plain_name(str(name))
        if str(name).startswith(STATES) or unused(plain) or not isinstance(about, _Bag) or "chunks" not in about.said:
            continue
        if plain in tensors:
            raise InputError(str(home / INDEX), f"holds {shown(plain)} under two names", "each tensor once")
        tensors[plain] = _tensor(home, plain, str(name), about.said, places)
    if not tensors:
        raise InputError(str(home / INDEX), "holds no tensors of a model", WANTED)
    return tensors


class _Bag:
    """Stands for any object of torch's: what was said of it, and nothing that runs."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.said: dict[str, object] = {}

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
            state = state[1]  # of slots
        self.said = state if isinstance(state, dict) else {"state": state}

    def __hash__(self) -> int:
        return id(self)


def _same(value: object = "") -> object:
    return value


def _size(values: object = ()) -> tuple[object, ...]:
    return tuple(values) if isinstance(values, list | tuple) else ()


BAGS = (
    *("Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties"),
    *("MetadataIndex", "StorageMeta", "_StorageInfo", "_MEM_FORMAT_ENCODING", "_StoragePrefix"),
)


class _Unpickler(pickle.Unpickler):
    """Knows names of a distributed checkpoint's index, none of which does anything."""

    def find_class(self, module: str, name: str) -> object:
        """A stand-in. Raises UnpicklingError for any other name."""
        if module.startswith("torch.distributed.checkpoint") and name.rpartition(".")[2] in BAGS:
            return _Bag
        if module in ("pathlib", "pathlib._local") and name.endswith("Path"):  # where it was saved
            return _Bag
        if module == "torch" and name in DTYPES:
            return name
        if (module, name) == ("torch", "Size"):
            return _size
        if (module, name) in {("torch.serialization", "_get_layout"), ("torch", "strided")}:
            return _same
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch" and name.isidentifier():
            return name  # a type that no model here has: said where a tensor has it
        raise pickle.UnpicklingError(f"{module}.{name}")


def _read(home: Path) -> Mapping[str, object]:
    where = home / INDEX
    raw = read_bytes(inside(home, INDEX), MOST_BYTES)
    try:
        found = _Unpickler(io.BytesIO(raw)).load()
    except Exception as error:  # a stranger's program for pickle's interpreter: it may fail in any way
        reason = shown(str(error) or type(error).__name__, 100)
        raise InputError(str(where), f"is not read: {reason}", WANTED, "do not trust this file") from None
    if not isinstance(found, _Bag):
        raise InputError(str(where), f"holds a {type(found).__name__}", WANTED)
    return found.said


def _mapping(home: Path, value: object) -> Mapping[object, object]:
    if not isinstance(value, dict):
        raise InputError(str(home / INDEX), "lists no tensors", WANTED)
    return value


def _places(home: Path, metadata: Mapping[str, object]) -> dict[tuple[str, tuple[int, ...]], tuple[str, int, int]]:
    """(name, offsets) of a chunk -> its file, first byte and bytes."""
    found = {}
    for index, place in _mapping(home, metadata.get("storage_data")).items():
        if isinstance(index, _Bag) and isinstance(place, _Bag):
            offset = index.said.get("offset")
            key = str(index.said.get("fqn")), tuple(offset) if isinstance(offset, tuple) else ()
            file, start, length = (place.said.get(word) for word in ("relative_path", "offset", "length"))
            if type(start) is not int or type(length) is not int:
                raise InputError(str(home / INDEX), f"does not say where {shown(key[0])} lies", WANTED)
            if place.said.get("transform_descriptors"):
                raise InputError(str(home / INDEX), f"{shown(key[0])} is compressed", "chunks as they are")
            found[key] = str(file), start, length
    return found


def _tensor(
    home: Path,
    plain: str,
    name: str,
    about: Mapping[str, object],
    places: Mapping[tuple[str, tuple[int, ...]], tuple[str, int, int]],
) -> LazyTensor:
    where = f"{home / INDEX}: {shown(plain)}"
    kind = next(iter(_state(about.get("properties"))), None)
    shape = _shape(where, about.get("size"))
    if not isinstance(kind, str) or kind not in DTYPES:
        raise InputError(where, f"is of {shown(kind, 40)}", f"one of {', '.join(DTYPES)}")
    blocks = []
    chunks = about.get("chunks")
    for chunk in chunks if isinstance(chunks, list) else []:
        said = chunk.said if isinstance(chunk, _Bag) else {}
        offsets, sizes = _shape(where, said.get("offsets")), _shape(where, said.get("sizes"))
        place = places.get((name, offsets))
        inner = len(offsets) == len(sizes) == len(shape)
        if place is None or not inner or any(a + n > most for a, n, most in zip(offsets, sizes, shape, strict=True)):
            raise InputError(where, f"its chunk at {list(offsets)} lies nowhere", WANTED, "copy every .distcp file")
        blocks.append(Block(offsets, sizes, _loader(home, place, sizes, kind)))
    if sum(int(np.prod(block.sizes)) for block in blocks) != int(np.prod(shape)):
        raise InputError(where, "its chunks do not make it whole", WANTED, "copy every .distcp file")
    return block_tensor(plain, shape, DTYPES[kind], blocks, home.name)


def _state(properties: object) -> Iterator[object]:
    state = properties.said.get("state") if isinstance(properties, _Bag) else ()
    yield from state if isinstance(state, tuple) else ()


def _shape(where: str, value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < 1 << 40 for n in value):
        raise InputError(where, f"has the size {shown(value, 40)}", "a shape")
    return tuple(value)


def _loader(home: Path, place: tuple[str, int, int], sizes: tuple[int, ...], kind: str) -> Callable[[], np.ndarray]:
    name, start, length = place
    path = inside(home, name, home / INDEX)

    def load() -> np.ndarray:
        import torch

        from convert.source.pickled import as_lazy

        with open_regular(path) as file:
            file.seek(start)
            raw = file.read(length)
        try:
            found = torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)
        except Exception as error:  # a stranger's bytes
            raise InputError(
                str(path), f"its chunk at byte {start} is not read ({type(error).__name__})", WANTED
            ) from None
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != sizes or str(found.dtype) != f"torch.{kind}":
            raise InputError(
                str(path), f"its chunk at byte {start} is not what the index says", f"{kind} {list(sizes)}"
            )
        return as_lazy(name, found, name).load()

    return load
