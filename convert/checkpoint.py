"""A Hugging Face checkpoint on disk: its config and its tensors, mapped, never loaded whole."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convert.bundle import Bundle, Role
from convert.errors import InputError
from convert.safetensors import Entry, MappedFile, read_header
from convert.untrusted import inside, listed, read_object, shown

CONFIG_NAME = "config.json"
SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
SHARD_NAME = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")
PICKLE_NAME = re.compile(r"pytorch_model(-\d{5}-of-\d{5})?\.bin")
MAX_CONFIG_BYTES = 4 << 20

STORAGE: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # numpy has no bfloat16: its 16 bits
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"),
    "U32": np.dtype("<u4"),
    "U16": np.dtype("<u2"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
"""safetensors' dtype -> how `LazyTensor.load` gives its values."""


def _nothing() -> None: ...


@dataclass(frozen=True)
class LazyTensor:
    """A tensor whose shape is known and whose bytes are not read yet."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # safetensors' name: F32, F16, BF16, ...
    load: Callable[[], np.ndarray] = field(repr=False)  # STORAGE[dtype] values, a read-only view of the mapped file
    file: str = ""  # where it comes from, for messages
    release: Callable[[], None] = field(default=_nothing, repr=False)  # gives touched pages back; views stay valid

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * STORAGE[self.dtype].itemsize


@dataclass(frozen=True)
class Checkpoint:
    """A model as it was published; nothing in it is loaded until a tensor's `load` is called."""

    folder: Path
    config: Mapping[str, Any]  # config.json, as it is
    tensors: Mapping[str, LazyTensor]  # in the order of the files and, in each, of its bytes


def open_checkpoint(folder: Path) -> Checkpoint:
    """The safetensors checkpoint in `folder`; only headers are read.

    The weights are the files of `model.safetensors.index.json`, or `model.safetensors`, or a complete set of
    `model-00001-of-0000N.safetensors`. Raises InputError for anything broken, hostile or ambiguous.
    """
    config = read_config(folder)
    files, index = weight_files(folder)
    tensors = _tensors(files)
    if index:
        _check_index(folder / INDEX_NAME, index, tensors)
    return Checkpoint(folder, config, tensors)


def open_bundle(bundle: Bundle) -> Checkpoint:
    """The checkpoint that a source bundle describes; its weights need not lie beside its config.

    Raises InputError as open_checkpoint does, and when the weights are not there (yet).
    """
    config = next((file.path for file in bundle.of(Role.CONFIG) if file.path.name == CONFIG_NAME), None)
    if config is None:
        raise InputError(bundle.model.name, "has no config.json", "a Hugging Face checkpoint")
    weights = [file.path for file in bundle.of(Role.WEIGHTS)]
    if not weights:
        raise InputError(bundle.model.name, "has no weights", "safetensors files")
    return Checkpoint(config.parent, read_config(config.parent), _tensors(weights))


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of the checkpoint in `folder`. Raises InputError when there is no such folder, file or object."""
    if not folder.is_dir():
        got = "is a file" if folder.exists() else "does not exist"
        raise InputError(str(folder), got, "the folder of a Hugging Face checkpoint")
    if not (folder / CONFIG_NAME).is_symlink() and not (folder / CONFIG_NAME).exists():
        raise InputError(str(folder), "has no config.json", "the folder of a Hugging Face checkpoint")
    return read_object(inside(folder, CONFIG_NAME), MAX_CONFIG_BYTES)


def weight_files(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The safetensors files that hold the model, in order, and the index (tensor name -> file name; empty if none).

    Other safetensors files, such as the `consolidated.safetensors` some publishers put beside, are not the model's.
    Raises InputError for a shard that is missing, a name that leads out of the folder, or two sets of weights.
    """
    present = sorted(path.name for path in folder.iterdir())
    index = _read_index(folder) if INDEX_NAME in present else {}
    shards = [name for name in present if SHARD_NAME.fullmatch(name)]
    names = sorted(set(index.values())) if index else shards
    if SINGLE_NAME in present:
        if names not in ([], [SINGLE_NAME]):
            raise InputError(
                str(folder),
                f"has {SINGLE_NAME} and also the shards {listed(names)}",
                "one set of weights",
                "move away the one that is not the model's",
            )
        names = [SINGLE_NAME]
    elif not index:
        _check_complete(folder, shards, present)
    missing = [name for name in names if name not in present]
    if missing and all(name == Path(name).name for name in missing):
        where = str(folder / INDEX_NAME)
        raise InputError(
            where, f"names {listed(missing)}, not in the folder", "every shard", "download the model again"
        )
    return [inside(folder, name, folder / INDEX_NAME) for name in names], index


def _read_index(folder: Path) -> dict[str, str]:
    where = inside(folder, INDEX_NAME)
    weight_map = read_object(where, unique=True).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(str(where), "has no weight_map", "an object of tensor name -> file name")
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file.endswith(".safetensors"):
            raise InputError(str(where), f"puts {shown(tensor)} in {shown(file)}", "the name of a safetensors file")
    return weight_map


def _check_complete(folder: Path, shards: Sequence[str], present: Sequence[str]) -> None:
    """Raise InputError unless `shards` are all of one set."""
    if shards:
        totals = {int(match[2]) for name in shards if (match := SHARD_NAME.fullmatch(name))}
        wanted = [f"model-{i:05}-of-{max(totals):05}.safetensors" for i in range(1, max(totals) + 1)]
        missing = [name for name in wanted if name not in shards]
        if missing or len(totals) > 1:
            got = f"lacks {listed(missing)}" if missing else f"has shards of {len(totals)} sets"
            raise InputError(str(folder), got, f"a complete set of {max(totals)} shards", "download the model again")
        return
    pickles = [name for name in present if PICKLE_NAME.fullmatch(name)]
    others = [name for name in present if name.endswith(".safetensors")]
    if pickles:
        got, remedy = (
            f"has pickled weights only ({listed(pickles)})",
            "use it as a recipe's model: it is converted there",
        )
    elif others:
        got, remedy = f"has none of the model's weights, only {listed(others)}", "is it an adapter, or another layout?"
    else:
        got, remedy = "has no weights", "download the model again"
    raise InputError(str(folder), got, f"{SINGLE_NAME} or {INDEX_NAME} and its shards", remedy)


def _tensors(files: Sequence[Path]) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        header = read_header(path)
        mapped = MappedFile(header)
        for entry in header.entries:
            if entry.name in tensors:
                raise InputError(
                    str(path),
                    f"holds {shown(entry.name)}, which {tensors[entry.name].file} holds too",
                    "every tensor once",
                    "do not trust this model",
                )
            tensors[entry.name] = _lazy(path, mapped, entry)
    return tensors


def _lazy(path: Path, mapped: MappedFile, entry: Entry) -> LazyTensor:
    storage = STORAGE.get(entry.dtype)
    if storage is None:
        raise InputError(
            f"{path}: tensor {shown(entry.name)}",
            f"is {entry.dtype}, not supported as source",
            f"one of {', '.join(STORAGE)}",
            "use the model's 16-bit checkpoint",
        )
    load, release = partial(mapped.view, entry, storage), partial(mapped.release, entry)
    return LazyTensor(entry.name, entry.shape, entry.dtype, load, path.name, release)


def _check_index(where: Path, index: Mapping[str, str], tensors: Mapping[str, LazyTensor]) -> None:
    """Raise InputError unless the index and the shards name the same tensors in the same files."""
    lacking = [name for name, file in index.items() if name not in tensors or tensors[name].file != file]
    if lacking:
        name = lacking[0]
        got = f"puts {shown(name)} in {shown(index[name])}, which does not hold it ({len(lacking)} such)"
        raise InputError(str(where), got, "an index that agrees with its shards", "download the model again")
    unlisted = [name for name in tensors if name not in index]
    if unlisted:
        got = f"does not list {listed(unlisted)}, which its shards hold"
        raise InputError(str(where), got, "an index that agrees with its shards", "download the model again")
