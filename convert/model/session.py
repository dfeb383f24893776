"""The source as a session that reads one layer at a time: what a checkpoint larger than memory is compared by."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.source.checkpoint import packing
from validate.runtimes._optional import optional
from validate.runtimes.transformers import TransformersSession

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from convert.model.fisher import Fisher
    from convert.model.layered import Layered, Visitor
    from convert.model.resume import Resume, Statistics

BATCH_TOKENS = 2048  # of a batch: as many rows as matrix products are fast with


class LayeredSession(TransformersSession):
    """As TransformersSession, in the memory of a layer; many windows at once are read as fast as the whole model.

    `dtype` is that of the arithmetic: torch's name of it. What a single call asks reads every layer for itself.
    `resume` is where passes over many windows write down how far they are.
    """

    resume: Resume | None = None
    whole = False  # all layers stay in memory

    def __init__(
        self,
        folder: Path,
        threads: int | None,
        trust_remote_code: bool,
        dtype: str = "float32",
        within: Path | None = None,
    ) -> None:
        super().__init__(folder, threads, trust_remote_code)
        self._dtype, self._within = dtype, within

    @functools.cached_property
    def layered(self) -> Layered:
        """The model, which holds what belongs to no layer."""
        from convert.model import hollow
        from convert.model.devices import open_on, there_are
        from convert.model.layered import Layered
        from convert.model.scratch import Scratch

        packed = packing(self._folder) is not None  # and made whole while it is read
        if optional(self._config, "quantization_config") is not None and not packed:
            return Layered(super()._model)  # blocks that transformers unpacks only as a whole
        with self.loading():
            dtype = {"float32": self._torch.float32, "bfloat16": self._torch.bfloat16}[self._dtype]
            scratch, trust = Scratch(folder=self._within), self._trust_remote_code
            if self.whole:
                return Layered(hollow.whole(self._folder, dtype, trust_remote_code=trust), scratch=scratch)
            return open_on(there_are(), self._folder, dtype, trust_remote_code=trust, scratch=scratch)

    @property
    def _model(self) -> PreTrainedModel:
        return self.layered.model

    def visit(
        self,
        windows: Sequence[Sequence[int]],
        visitor: Callable[[Layered], Visitor],
        advance: Callable[[int], None],
        statistics: Statistics | None = None,
    ) -> None:
        """Put windows through every layer below the head, each layer shown to the visitor; several rows at a time.

        `advance` is told of tokens as they go by. With the visitor's `statistics` a run that was killed goes on.
        """
        groups = by_length(windows)
        rows = [{"input_ids": self._torch.tensor(group)} for group in groups]
        sizes = [arguments["input_ids"].numel() for arguments in rows]
        with self._running():
            on_call = _shares(sizes, sum(layer.in_list for layer in self.layered.layers), advance)
            self.layered.resume = replace(self.resume, statistics=statistics) if self.resume and statistics else None
            for _ in self.layered.run(rows, visitor(self.layered), on_call, head=False):
                pass

    def put_through(self, inputs: Sequence[Mapping[str, Tensor]], visitor: Visitor) -> None:
        """Put whatever the model takes through every layer below the head, each layer shown to the visitor."""
        with self._running():
            for _ in self.layered.run(inputs, visitor, head=False):
                pass

    def gradients(self, inputs: Sequence[Mapping[str, Tensor]], on_call: Callable[[int], None]) -> Fisher:
        """What errors in the matrices cost, over whatever the model takes; `on_call` is told of each layer's pass."""
        from convert.model.fisher import fisher

        with self._running(), self._torch.inference_mode(mode=False):
            return fisher(self.layered, inputs, on_call=on_call)

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
        return self.read_windows(windows, lambda tokens: None)

    def read_windows(self, windows: Sequence[Sequence[int]], advance: Callable[[int], None]) -> Iterator[np.ndarray]:
        ids = [{"input_ids": self._torch.tensor([list(tokens)])} for tokens in windows]
        with self._running():
            on_call = _shares(list(map(len, windows)), len(self.layered.layers), advance)
            self.layered.resume = self.resume
            outputs = self.layered.run(ids, on_call=on_call)
            ready: dict[int, np.ndarray] = {}
            for wanted in range(len(windows)):
                while wanted not in ready:
                    number, output = next(outputs)
                    ready[number] = output.logits[0].float().numpy()  # type: ignore[attr-defined]
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


def by_length(windows: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Windows of one length together, as many as make a batch, in their order."""
    groups: dict[int, list[list[list[int]]]] = {}
    for tokens in windows:
        same = groups.setdefault(len(tokens), [[]])
        if same[-1] and (len(same[-1]) + 1) * len(tokens) > BATCH_TOKENS:
            same.append([])
        same[-1].append(list(tokens))
    return [group for same in groups.values() for group in same]
