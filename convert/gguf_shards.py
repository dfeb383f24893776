"""How llama.cpp names the files of a model that is split. Imports nothing of ours."""

from __future__ import annotations

import re

SHARD = re.compile(r"(?P<start>.+)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


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
