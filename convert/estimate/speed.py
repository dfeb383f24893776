"""Tokens a second that a memory bandwidth allows: to write one, every weight that it meets is read once, and the cache.

An upper bound: nothing is computed in no time, and no memory is read at its full speed. Of experts those are read that
a token is sent to; of the embedding one row.
"""

from __future__ import annotations

from dataclasses import dataclass

from convert.estimate.fit import of_host
from convert.estimate.memory import Memory
from convert.estimate.model_file import ModelFile, Weight


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second: of the memory that the model lies in, and of the host's where only a part fits a GPU."""

    main: int | None = None
    host: int | None = None


def read_bytes(model: ModelFile, memory: Memory) -> int:
    """What is read of memory to write one token, at the end of a full context."""
    used, count = model.number("expert_used_count"), model.number("expert_count")
    looked_up = {weight.name for weight in of_host(model)}
    weights = sum(_read(weight, used, count) for weight in model.weights if weight.name not in looked_up)
    return weights + memory.cache


def tokens_per_second(model: ModelFile, memory: Memory, bandwidth: Bandwidth, share: float) -> float | None:
    """At most so many, where `share` of what is read lies in the main memory; None where a bandwidth is not known."""
    read = read_bytes(model, memory)
    if bandwidth.main is None or (share < 1 and bandwidth.host is None):
        return None
    seconds = read * share / bandwidth.main
    if share < 1 and bandwidth.host is not None:
        seconds += read * (1 - share) / bandwidth.host
    return 1 / seconds if seconds else None


def _read(weight: Weight, used: int, count: int) -> int:
    return weight.nbytes * used // count if "_exps." in weight.name and 0 < used < count else weight.nbytes
