"""The source as a session that reads one layer at a time: what a checkpoint larger than memory is compared by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from validate.runtimes.transformers import TransformersSession

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from convert.model.layered import Layered


class LayeredSession(TransformersSession):
    """As TransformersSession, in the memory of a layer; many windows at once are read as fast as the whole model.

    `dtype` is that of the arithmetic: torch's name of it. What a single call asks reads every layer for itself.
    """

    def __init__(
        self, folder: Path, threads: int | None, trust_remote_code: bool, dtype: str = "float32", within: Path | None = None
    ) -> None:
        super().__init__(folder, threads, trust_remote_code)
        self._dtype, self._within = dtype, within

    @functools.cached_property
    def layered(self) -> Layered:
        """The model, which holds what belongs to no layer."""
        from convert.model.layered import Layered
        from convert.model.scratch import Scratch

        with self.loading():
            return Layered(
                self._folder,
                getattr(self._torch, self._dtype),
                trust_remote_code=self._trust_remote_code,
                scratch=Scratch(folder=self._within),
            )

    @property
    def _model(self) -> PreTrainedModel:
        return self.layered.model

    @property
    def bytes_to_load(self) -> int:
        return 0  # what is read for a layer is gone when the next one is

    @property
    def bytes_held(self) -> int:
        return self.layered.bytes_held if "layered" in vars(self) else 0

    def give_back(self) -> None:
        """Nothing but a layer is ever held for long."""

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        return next(self.logits_of([tokens]))

    def logits_of(self, windows: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        return self.read(windows, lambda tokens: None)

    def read(self, windows: Sequence[Sequence[int]], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
        ids = [{"input_ids": self._torch.tensor([list(tokens)])} for tokens in windows]
        with self._running():
            outputs = self.layered.run(ids, on_call=_shares(list(map(len, windows)), len(self.layered.layers), advance))
            ready: dict[int, np.ndarray] = {}
            for wanted in range(len(windows)):
                while wanted not in ready:
                    number, output = next(outputs)
                    ready[number] = output.logits[0].float().numpy()
                    del output
                yield ready.pop(wanted)
            outputs.close()


def _shares(sizes: Sequence[int], layers: int, advance: Callable[[int], None]) -> Callable[[int], None]:
    """Tells `advance` of whole tokens, a layer's share of them whenever a window went through one."""
    gone = [0] * len(sizes)

    def on_call(number: int) -> None:
        before, gone[number] = gone[number], gone[number] + 1
        size = sizes[number]
        advance(min(gone[number], layers) * size // layers - min(before, layers) * size // layers)

    return on_call
