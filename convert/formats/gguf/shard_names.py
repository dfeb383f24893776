"""How llama.cpp names the files of a model that is split, and by what it is split."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from convert.gguf_shards import is_later_shard, numbered, shard_names

__all__ = ["Split", "is_later_shard", "numbered", "read_split", "shard_names", "size_in_bytes"]

SIZE = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,9})?) ?(MB?|GB?|MiB|GiB)")
UNITS = {"M": 10**6, "G": 10**9}  # as llama.cpp counts them
UNITS |= {"MB": 10**6, "GB": 10**9, "MiB": 2**20, "GiB": 2**30}
TENSORS = re.compile(r"([1-9][0-9]{0,6}) tensors")
KEEP = "keep"


@dataclass(frozen=True)
class Split:
    """Where a model is cut into files: each has at most so many bytes of tensors, or so many tensors."""

    bytes: int = 0  # 0: any number
    tensors: int = 0
    keep: bool = False  # where the source is cut


def read_split(text: str) -> Split:
    """What `45GB`, `128 tensors` or `keep` asks for. Raises ValueError for anything else."""
    if text == KEEP:
        return Split(keep=True)
    if match := TENSORS.fullmatch(text):
        return Split(tensors=int(match[1]))
    return Split(size_in_bytes(text))


def size_in_bytes(text: str) -> int:
    """The bytes that `45GB`, `45G`, `500M` or `1.5GiB` is. Raises ValueError for anything else."""
    match = SIZE.fullmatch(text)
    size = int(Decimal(match[1]) * UNITS[match[2]]) if match else 0
    if not size:
        raise ValueError(f"{text!r} is no size, wanted a number and MB, GB, MiB or GiB, as in 45GB")
    return size
