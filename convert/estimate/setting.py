"""How llama.cpp is asked to run a model."""

from __future__ import annotations

from dataclasses import dataclass

from validate.kv_cache import PLAIN, CacheTypes

CELLS = 256  # llama.cpp rounds a cache up to a multiple of it


def padded(cells: int) -> int:
    """As many cells as llama.cpp makes of so many."""
    return -(-cells // CELLS) * CELLS


@dataclass(frozen=True)
class Setting:
    """Defaults are llama.cpp's own; `outputs` are the tokens of a batch that may have logits, all of them if None."""

    context: int
    cache: CacheTypes = PLAIN  # -ctk, -ctv, -fa
    texts: int = 1  # -np, with --kv-unified
    batch: int = 2048  # -b
    micro_batch: int = 512  # -ub
    outputs: int | None = None
    full_window: bool = False  # --swa-full
    images: bool = False  # whether the projector is loaded

    @property
    def cells(self) -> int:
        """Of a cache for the whole context."""
        return padded(self.context)

    @property
    def tokens(self) -> int:
        """Most that go through the graph at once."""
        return min(self.cells, self.batch, self.micro_batch)

    @property
    def logits(self) -> int:
        """Most of those that have logits."""
        return min(self.tokens, self.outputs or min(self.cells, self.batch))
