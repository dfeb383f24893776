"""Legacy `pytorch_model.bin`: looked through without running a byte of it, then written as safetensors.

A pickle is a program. It is read here by `torch.load(weights_only=True)` and by nothing else, and before that every
name it would import is held against a short list; the first one that is not on it is named in the error.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact
from convert.distribution import install_command
from convert.errors import InputError
from convert.files import open_regular
from convert.progress import Progress
from convert.source.checkpoint import (
    PICKLES,
    SAFETENSORS,
    STORAGE,
    LazyTensor,
    check_index,
    is_classifier,
    weight_files,
)
from convert.source.names import kept_name, refuse_unmerged
from convert.source.pickle_scan import DTYPES, ZIP_START, scan
from convert.source.safetensors import write
from convert.source.untrusted import listed, shown

if TYPE_CHECKING:
    import torch


def forecast(files: Sequence[Path]) -> tuple[Artifact, ...]:
    """The safetensors files that `convert` will write for these pickles, by bare name; their size is about the same."""
    names = SAFETENSORS.names(len(files))
    return tuple(
        Artifact("safetensors", Path(name), path.stat().st_size) for name, path in zip(names, files, strict=True)
    )


def convert(
    files: Sequence[Path], index: Mapping[str, str], out: Path, *, tied: bool, progress: Progress
) -> tuple[Artifact, ...]:
    """One safetensors file in `out` for each pickle, hashed while written; one shard is mapped at a time.

    With `tied`, of several names of the very same values (embedding and output) the first stays, as safetensors has
    no way to share bytes; else each gets its own copy. Raises InputError for whatever is not a dict of plain tensors.
    """
    progress.start("reading pickled weights", sum(path.stat().st_size for path in files))
    found: dict[str, str] = {}
    artifacts = []
    scores = bool(files) and is_classifier(files[0].parent)
    for path, name in zip(files, SAFETENSORS.names(len(files)), strict=True):
        scan(path)
        kept = _of_shard(path, scores, tied, found)
        specs = {tensor: (DTYPES[_dtype(value)], tuple(value.shape)) for tensor, value in kept.items()}
        artifacts.append(write(out / name, specs, _bytes(kept.values()), {"format": "pt"}))
        progress.advance(path.stat().st_size)
    if files:
        named = {plain: file for tensor, file in index.items() if (plain := kept_name(tensor, scores))}
        check_index(files[0].parent / PICKLES.index, named, found)
    return tuple(artifacts)


class Planned(Mapping[str, LazyTensor]):
    """The tensors that `convert` will write of the pickles in a folder; those are read when the first is asked for."""

    def __init__(self, folder: Path, *, tied: bool) -> None:
        self._folder, self._tied = folder, tied

    def __getitem__(self, name: str) -> LazyTensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @functools.cached_property
    def _tensors(self) -> Mapping[str, LazyTensor]:
        return _planned(self._folder, self._tied)


def _planned(folder: Path, tied: bool) -> dict[str, LazyTensor]:
    """Mapped where they are. Raises InputError."""
    if importlib.util.find_spec("torch") is None:
        raise InputError(str(folder), "has pickled weights", "torch to read them", install_command("pickle"))
    found: dict[str, str] = {}
    tensors: dict[str, LazyTensor] = {}
    for path in weight_files(folder, PICKLES)[0]:
        scan(path)
        kept = _of_shard(path, is_classifier(folder), tied, found)
        tensors |= {name: as_lazy(name, value, path.name) for name, value in kept.items()}
    return tensors


def _of_shard(path: Path, scores: bool, tied: bool, found: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of one file that are written; `found`, tensor -> file, is told of all of them."""
    tensors = _model_tensors(path, scores)
    twice = [tensor for tensor in tensors if tensor in found]
    if twice:
        raise InputError(str(path), f"holds {listed(twice)}, which {found[twice[0]]} holds too", "each tensor once")
    found |= dict.fromkeys(tensors, path.name)
    return _without_aliases(tensors) if tied else tensors


def lazy_tensors(path: Path) -> dict[str, LazyTensor]:
    """Every tensor of a pickled state dict, as it is called there. Raises InputError for anything else in it."""
    scan(path)
    return {name: as_lazy(name, value, path.name) for name, value in _load(path).items()}


def as_lazy(name: str, value: torch.Tensor, file: str) -> LazyTensor:
    """A tensor of torch's as one of a checkpoint."""
    dtype = DTYPES[_dtype(value)]

    def load() -> np.ndarray:
        import torch

        flat = value.detach().contiguous().reshape(-1)
        stored = flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
        return stored.view(STORAGE[dtype]).reshape(value.shape)

    return LazyTensor(name, tuple(value.shape), dtype, load, file)


def _model_tensors(path: Path, scores: bool) -> dict[str, torch.Tensor]:
    """The tensors in the file that are part of the model, by their plain names (see convert.source.names)."""
    state = _load(path)
    refuse_unmerged(str(path), state)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        kept = kept_name(name, scores)
        if kept in tensors:
            raise InputError(str(path), f"holds {shown(kept)} under two names", "each tensor once")
        if kept:
            tensors[kept] = value
    return tensors


def _load(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in the file, mapped where its format allows it."""
    import torch

    with open_regular(path) as file:
        zipped = file.read(4) == ZIP_START
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch thinks of a stranger's file is in the error
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # a stranger's program for torch's interpreter: it may fail in any way
        reason = shown(str(error).splitlines()[0] if str(error) else type(error).__name__, 160)
        raise InputError(str(path), f"torch cannot read it safely ({reason})", "a state dict of tensors") from None
    if not isinstance(state, dict):
        raise InputError(str(path), f"holds a {type(state).__name__}", "a state dict: name -> tensor")
    size = path.stat().st_size
    for name, value in state.items():
        _check_tensor(path, name, value, size)
    return dict(state)


def _check_tensor(path: Path, name: object, value: object, file_size: int) -> None:
    import torch

    where = f"{path}: {shown(name)}"
    if not isinstance(name, str) or not name.isprintable():
        raise InputError(where, "is not a tensor's name", "a plain name")
    if not isinstance(value, torch.Tensor):
        hint = "is it a training checkpoint? save its state dict alone" if isinstance(value, dict) else ""
        raise InputError(where, f"is a {type(value).__name__}", "a tensor", hint)
    if value.layout is not torch.strided or _dtype(value) not in DTYPES:
        got = f"is a tensor of {value.dtype}, {value.layout}, not supported as source"
        raise InputError(where, got, f"a dense tensor of {', '.join(DTYPES)}")
    if value.numel() * value.element_size() > file_size:
        got = f"its shape {shown(tuple(value.shape))} has more values than the file"
        raise InputError(where, got, "values that are stored", "do not trust this file")


def _dtype(value: torch.Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    kept: dict[str, torch.Tensor] = {}
    seen = set()
    for name, value in tensors.items():
        view = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride(), value.dtype)
        if value.numel() == 0 or view not in seen:
            kept[name] = value
        seen.add(view)
    return kept


def _bytes(tensors: Iterable[torch.Tensor]) -> Iterator[memoryview]:
    """The bytes of every tensor in row-major order, one in memory at a time."""
    import torch

    for tensor in tensors:
        flat = tensor.detach().contiguous().reshape(-1)
        yield memoryview(flat.view(torch.uint8).numpy() if flat.numel() else b"")
