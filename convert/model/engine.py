"""A quantized folder on the source's own engine, one layer at a time: how one is measured that fits no loader here.

Its matrices are made whole while they are read, so what is compared is what its numbers are worth; kernels, and inputs
that a scheme rounds, are not in it. A report names it so.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

from convert.bundle import Bundle
from convert.model.memory_needs import weights_in, weights_of
from convert.model.session import LayeredSession
from convert.source.checkpoint import packing
from validate import memory
from validate.runtimes.base import Ability, Runtime
from validate.speed import Speed

_VERSIONS = ("transformers", "torch")


def is_needed(folder: Path) -> bool:
    """Whether the folder's matrices can be made whole here, and all of them at once would not fit into memory."""
    free = memory.free_bytes()
    if free is None or packing(folder) is None:
        return False
    return weights_in(folder).full_bytes > free * memory.FREE_SHARE


def needed_bytes(source: Bundle, loaded: int) -> int:
    """What a quantized folder made of the source takes when it runs: `loaded`, or a layer where all would not fit."""
    whole, total = weights_of(source), memory.total_bytes()
    fits = total is None or whole.full_bytes <= total * memory.FREE_SHARE
    return loaded if fits else whole.layered_bytes


class EngineSession(LayeredSession):
    """As LayeredSession, of a candidate: it reads windows, all in one pass; to write is a pass for each token."""

    def can(self, ability: Ability) -> bool:
        """Whether this session has an ability."""
        return ability not in (Ability.DECODE, Ability.GENERATE, Ability.IMAGES) and super().can(ability)

    def speed(self, tokens: Sequence[int]) -> Speed:
        """No rates: no runtime that the file is for would be as slow, or as fast."""
        del tokens
        return Speed(None, None, self.load_seconds, threads=self.threads)


class Engine(Runtime):
    """transformers' modules over dequantized weights, one layer at a time."""

    NAME = "dequantized, one layer at a time"
    DISTRIBUTIONS = _VERSIONS
    ISOLATED = False  # no native code but torch's, and many windows are read in one pass

    def version(self) -> str:
        """What ran, for the report."""
        return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _VERSIONS)

    def open(
        self, model: Path, *, projector: Path | None = None, context: int = 512, threads: int | None = None
    ) -> EngineSession:
        """A session on the folder that the weights' file `model` lies in."""
        return EngineSession(model.parent, threads, trust_remote_code=False)


RUNTIME = Engine()
