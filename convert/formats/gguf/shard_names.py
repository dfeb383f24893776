"""How llama.cpp names the files of a model that is split, and the sizes it is split by. Imports nothing of ours."""

from __future__ import annotations

import re

SHARD = re.compile(r"(?P<start>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)
SIZE = re.compile(r"([1-9][0-9]{0,5})([MG])")
UNITS = {"M": 10**6, "G": 10**9}  # as llama.cpp counts them


def size_in_bytes(text: str) -> int:
    """The bytes that `45G` or `500M` is. Raises ValueError for anything else."""
    match = SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no size, wanted a whole number and M or G, as in 45G")
    return int(match[1]) * UNITS[match[2]]


def is_later_shard(name: str) -> bool:
    """Whether the file called `name` is part of a model whose first file is another: runtimes get the first only."""
    match = SHARD.fullmatch(name)
    return match is not None and int(match["number"]) > 1


def shard_names(name: str) -> tuple[str, ...]:
    """The names of all files of the model that the file called `name` belongs to, in order; itself when it is whole."""
    match = SHARD.fullmatch(name)
    return (name,) if match is None else numbered(match["start"], int(match["count"]))


def numbered(start: str, count: int) -> tuple[str, ...]:
    """The names of `count` files of one model."""
    return tuple(f"{start}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1))
