"""What is known of the inputs of a checkpoint's matrices, for who quantizes them: importance, Gram matrices."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Bundle
from convert.errors import StageError
from convert.formats.gguf.column_importance import ColumnImportance
from convert.formats.mlx.rules import Piece
from convert.formats.mlx.write import Slab
from convert.model.statistics import Statistics, has_grams
from quantize.mlx_layout import AFFINE, Encoded, Layout
from quantize.mlx_search import searched

if TYPE_CHECKING:
    from convert.model.inputs import Inputs
    from quantize import gptq

EXPERT = re.compile(r"\.experts\.(\d+)\.")


@dataclass(frozen=True)
class Importance:
    """Mean squares of inputs, by the checkpoint's tensors; of an importance matrix, whose names are GGUF's."""

    known: ColumnImportance

    @classmethod
    def of(cls, source: Bundle) -> Importance | None:
        """That of a bundle; None where it has none. Raises InputError for one of another model."""
        found = ColumnImportance.of(source)
        return None if found is None else cls(found)

    def costs(self, slab: Slab, columns: int) -> np.ndarray | None:
        """What a squared error of each column costs; None where nothing is known of a matrix, or its columns move."""
        if not slab.piece.view.keeps_columns:
            return None
        found = self.known.of_tensor(slab.piece.source, columns)
        return found[expert_of(slab)] if found is not None and found.ndim == 2 else found


def expert_of(slab: Slab) -> int:
    """Which expert's a matrix is: by its name, else by its place in the tensor."""
    found = EXPERT.search(slab.piece.source)
    return int(found[1]) if found else slab.number


@dataclass
class Grams:
    """The Gram matrices that a calibration stage kept, by the checkpoint's tensors."""

    statistics: Statistics
    targets: Mapping[str, str]  # the checkpoint's tensor -> the loaded model's parameter
    _layer: tuple[str, Mapping[str, Inputs]] = ("", {})
    _last: tuple[object, gptq.Inputs | None] = (None, None)

    def layer(self, piece: Piece) -> str:
        """The layer whose statistics say what goes into the piece's columns; empty where none does."""
        parameter = self.targets.get(piece.source, "") if piece.view.keeps_columns else ""
        return next((name for name in self.statistics.files if parameter.startswith(f"{name}.")), "")

    def inputs(self, piece: Piece, expert: int, columns: int) -> gptq.Inputs | None:
        """What GPTQ has to know; None where nothing was kept of a matrix, or nothing went into it."""
        from quantize import gptq

        parameter, layer = self.targets.get(piece.source, ""), self.layer(piece)
        if not layer:
            return None
        if self._layer[0] != layer:
            self._layer, self._last = (layer, self.statistics.load(layer).found), (None, None)
        found = self._layer[1].get(parameter)
        if found is None or found.columns != columns:
            return None
        number = expert if found.experts > 1 else 0
        if self._last[0] != (id(found), number):
            seen = int(found.counts[number]) > 0
            self._last = (id(found), number), gptq.Inputs(found.gram(number).numpy(), own=True) if seen else None
        return self._last[1]


@contextmanager
def open_grams(source: Bundle, threads: int) -> Iterator[Grams | None]:
    """Those of a bundle; None where it has none. Raises StageError for a model that transformers does not build."""
    if not has_grams(source):
        yield None
        return
    import torch

    from convert.model.hollow import Weights, build
    from convert.model.reference import link_files
    from validate.runtimes import RuntimeFailure

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="mlx-source-") as linked:
        link_files(source, Path(linked), code=False)
        try:
            targets = Weights(build(Path(linked), torch.float32), Path(linked), torch.float32).targets
        except RuntimeFailure as error:
            raise StageError("the reference", str(error)) from error
        yield Grams(Statistics.of(source), dict(targets))


@dataclass
class Search:
    """An encoder that looks for the least error: of outputs where Gram matrices are there, else of weights."""

    importance: Importance | None = None
    grams: Grams | None = None
    threads: int = 1
    counts: dict[str, int] = field(default_factory=dict)  # how many matrices were made how

    def rows(self, slab: Slab) -> int | None:
        """All of a slab that GPTQ may have: its columns are taken one after the other; of another as many as fit."""
        return None if self.grams is not None and self.grams.layer(slab.piece) else 0

    def encode(self, slab: Slab, values: np.ndarray, layout: Layout, dtype: str) -> Encoded:
        """The best that is known."""
        columns = values.shape[1]
        if self.grams is not None and layout.mode == AFFINE:
            inputs = self.grams.inputs(slab.piece, expert_of(slab), columns)
            if inputs is not None:
                from quantize.mlx_gptq import solved

                self._count("from Gram matrices")
                return solved(values, layout, dtype, inputs)
        costs = self.importance.costs(slab, columns) if self.importance is not None else None
        self._count("with importance" if costs is not None else "without importance")
        return searched(values, layout, dtype, costs, self.threads)

    def _count(self, word: str) -> None:
        self.counts[word] = self.counts.get(word, 0) + 1
