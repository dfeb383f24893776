"""A checkpoint whose tensors are computed, written as safetensors: one tensor, or a few of its rows, in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import numpy as np

from convert.bundle import Artifact
from convert.files import write_text
from convert.json_types import JsonObject
from convert.progress import Progress
from convert.source.checkpoint import CONFIG_NAME, SAFETENSORS, LazyTensor
from convert.source.safetensors import write

SHARD_BYTES = 5_000_000_000  # as transformers cuts them
BLOCK_VALUES = 1 << 20


def forecast(tensors: Mapping[str, LazyTensor]) -> tuple[Artifact, ...]:
    """The files that `write_weights` will write, by bare name; their sizes without headers."""
    shards = _shards(tensors)
    names = SAFETENSORS.names(len(shards))
    return tuple(
        Artifact("safetensors", Path(name), sum(tensor.nbytes for tensor in shard.values()))
        for name, shard in zip(names, shards, strict=True)
    )


def write_weights(tensors: Mapping[str, LazyTensor], out: Path, progress: Progress) -> tuple[Artifact, ...]:
    """The tensors in files of at most SHARD_BYTES in `out`, with their index where they are several."""
    shards = _shards(tensors)
    progress.start("writing the weights", sum(tensor.nbytes for tensor in tensors.values()))
    made, weight_map = [], dict[str, str]()
    for name, shard in zip(SAFETENSORS.names(len(shards)), shards, strict=True):
        specs = {key: (tensor.dtype, tensor.shape) for key, tensor in shard.items()}
        data = (_pieces(tensor, progress) for tensor in shard.values())
        made.append(write(out / name, specs, data, {"format": "pt"}))
        weight_map |= dict.fromkeys(shard, name)
    if len(made) > 1:
        index = {"metadata": {"total_size": sum(a.size for a in made)}, "weight_map": weight_map}
        write_text(out / SAFETENSORS.index, json.dumps(index, indent=2))
    return tuple(made)


def write_config(config: JsonObject, out: Path) -> Artifact:
    """config.json in `out`."""
    return write_text(out / CONFIG_NAME, json.dumps(config, indent=2, ensure_ascii=False) + "\n", "json")


def _shards(tensors: Mapping[str, LazyTensor]) -> list[dict[str, LazyTensor]]:
    shards: list[dict[str, LazyTensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def _pieces(tensor: LazyTensor, progress: Progress) -> Iterator[memoryview]:
    """The tensor's bytes."""
    rows = tensor.rows
    step = len(tensor.shape) and max(1, BLOCK_VALUES // max(1, prod(tensor.shape[1:])))
    whole = None if rows is not None and tensor.shape else tensor.load()
    for start in range(0, tensor.shape[0] if tensor.shape else 1, step or 1):
        if rows is not None and tensor.shape:
            values = rows(start, min(start + step, tensor.shape[0]))
        else:
            assert whole is not None
            values = whole[start : start + step] if tensor.shape else whole
        values = np.ascontiguousarray(values)
        if values.size:
            yield values.reshape(-1).view(np.uint8).data
        progress.advance(values.nbytes)
    tensor.release()
