"""Tokens a second that a memory bandwidth allows: to write one, every weight that it meets is read once, and the cache.

An upper bound: nothing is computed in no time, and no memory is read at its full speed. Of experts those are read that
a token is sent to; of the embedding one row.
"""

from __future__ import annotations

from convert.estimate.fit import of_host
from convert.estimate.memory import Memory
from convert.estimate.model_file import ModelFile, Weight


def read_bytes(model: ModelFile, memory: Memory) -> int:
    """What is read of memory to write one token, at the end of a full context."""
    used, count = model.number("expert_used_count"), model.number("expert_count")
    looked_up = {weight.name for weight in of_host(model)}
    weights = sum(_read(weight, used, count) for weight in model.weights if weight.name not in looked_up)
    return weights + memory.cache


def tokens_per_second(model: ModelFile, memory: Memory, bandwidth: int) -> float:
    """At most so many."""
    return bandwidth / max(1, read_bytes(model, memory))


def _read(weight: Weight, used: int, count: int) -> int:
    return weight.nbytes * used // count if "_exps." in weight.name and 0 < used < count else weight.nbytes
