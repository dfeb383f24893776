"""Bits by matrix, so that a folder of a given size loses least: what may be chosen, what it costs, what is best.

Every matrix that no `overrides:` is about has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, or stays as it is.
What that costs is measured on a sample of its rows, encoded with the stage's own search and read back
(convert/model/sensitivity.py); the choice is quantize/budget.py's, exact to a 131072nd part of the room.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import prod

import numpy as np

from convert.bundle import Bundle
from convert.errors import PlanError, Problem
from convert.formats.mlx.importance import Importance
from convert.formats.mlx.layout import Folder, ModelTensor
from convert.formats.mlx.rules import Piece
from convert.formats.mlx.write import Slab
from convert.json_types import JsonDict
from convert.model import sensitivity
from convert.model.sensitivity import Candidate, Matrix, Weighing
from convert.model.weighing import Gradients
from convert.progress import Progress
from quantize.budget import Best, Cost, best
from quantize.floats import to_float32
from quantize.mlx import decode, rounded
from quantize.mlx_layout import AFFINE, BITS, GROUPS, Layout
from quantize.mlx_search import searched

HOLDERS = 3  # tensors that a message names
HEADER = 4096  # bytes that a header's metadata, length and padding take at most beside its tensors' words


@dataclass(frozen=True)
class Target:
    """What a folder's weights may take: bytes of all of its files, or bits a weight."""

    file: int | None = None
    bits: float | None = None

    def __str__(self) -> str:
        return f"file: {self.file:,} bytes" if self.file is not None else f"bits: {self.bits:g}"

    @property
    def label(self) -> str:
        """For names: 4.5bit, 4.2GB."""
        if self.bits is not None:
            return f"{self.bits:g}bit"
        assert self.file is not None
        return f"{self.file / 1e9:.4g}GB" if self.file >= 10**9 else f"{self.file / 1e6:.4g}MB"


@dataclass(frozen=True, eq=False)
class Open:
    """A folder whose layouts are to be chosen: by module name the layouts that its matrix can have."""

    folder: Folder
    kinds: Mapping[str, Mapping[str, Layout | None]]

    @classmethod
    def of(cls, folder: Folder, group_size: int | None) -> Open:
        """All but what rules decide; with a `group_size` in that alone."""
        groups = GROUPS if group_size is None else (group_size,)
        kinds = {t.module: _layouts(t, groups) for t in folder.tensors if t.layout and not folder.ruled(t.module)}
        return cls(folder, kinds)

    @property
    def free(self) -> list[ModelTensor]:
        """The tensors whose layouts are chosen, in the folder's order."""
        return [tensor for tensor in self.folder.tensors if tensor.module in self.kinds]

    def sizes(self, tensor: ModelTensor) -> dict[str, int]:
        """Bytes by layout."""
        return {name: replace(tensor, layout=one).nbytes for name, one in self.kinds[tensor.module].items()}

    @cached_property
    def around(self) -> int:
        """Bytes of the tensors that no choice is about."""
        return sum(tensor.nbytes for tensor in self.folder.tensors if tensor.module not in self.kinds)

    def room(self, target: Target) -> int:
        """Bytes for the free tensors. Raises PlanError where their smallest layouts take more."""
        around = self.around
        values = sum(prod(tensor.placed.shape) for tensor in self.folder.tensors)
        header = self._headers if target.file is not None else 0
        asked = target.file if target.file is not None else int((target.bits or 0) * values / 8)
        held = {tensor.name: min(self.sizes(tensor).values()) for tensor in self.free}
        smallest = around + header + sum(held.values())
        if smallest > asked:
            most = sorted(held, key=lambda name: (-held[name], name))[:HOLDERS]
            names = ", ".join(f"{name} {held[name]:,}" for name in most)
            names += f", and {around:,} of what is not quantized" if around else ""
            got = f"{target} is {asked:,} bytes, and the smallest there is takes {smallest:,}"
            wanted = f"at least that; most of it: {names}"
            raise PlanError(Problem("fit", got, wanted, "ask for more, or keep less in `overrides`"))
        return asked - around - header

    @property
    def _headers(self) -> int:
        """What the files' headers take at most: their words with the longest offsets, in as many files as may be."""
        words = {name: spec for tensor in self._widest for name, spec in tensor.stored.items()}
        table = {n: {"dtype": d, "shape": list(s), "data_offsets": [10**12, 10**12]} for n, (d, s) in words.items()}
        whole = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
        return len(whole) + HEADER * len(self.folder.shards)

    @property
    def _widest(self) -> Iterator[ModelTensor]:
        """The tensors in layouts of three parts, and the largest number of groups."""
        for tensor in self.folder.tensors:
            kinds = [one for one in self.kinds.get(tensor.module, {}).values() if one is not None]
            yield replace(tensor, layout=max(kinds, key=lambda o: (o.bits, -o.group_size))) if kinds else tensor


def _layouts(tensor: ModelTensor, groups: tuple[int, ...]) -> dict[str, Layout | None]:
    columns = tensor.placed.shape[-1]
    made = [Layout(AFFINE, bits, group) for bits in BITS for group in groups if columns % group == 0]
    return {**{name_of(one): one for one in made}, tensor.dtype: None}


def name_of(layout: Layout) -> str:
    """For reports."""
    return f"{layout.bits} bits in {layout.group_size}s"


@dataclass(frozen=True)
class Chosen:
    """The layouts of the free modules, and the words of the report."""

    layouts: Mapping[str, Layout | None]
    report: JsonDict


def choose(opened: Open, target: Target, source: Bundle, progress: Progress) -> Chosen:
    """The layouts that lose least in the bytes asked for. Raises PlanError where the smallest take more."""
    room = opened.room(target)
    known = _Known(opened.folder, Gradients.of(source), Importance.of(source))
    progress.note(f"fit: bits are chosen by {known.words}")
    if known.gradients is None:
        progress.warn("fit: costs are guessed; `from:` a calibration stage with `fisher: true` knows what errors cost")
    progress.start("what each layout costs", len(opened.free), "matrix")
    matrices = (known.matrix(tensor, opened.kinds[tensor.module]) for tensor in opened.free)
    costs = dict(sensitivity.costs(matrices, lambda _: progress.advance(1)))
    table = {
        t.module: {name: Cost(size, costs[t.module][name]) for name, size in opened.sizes(t).items()}
        for t in opened.free
    }
    found = best(table, room)
    layouts = {module: opened.kinds[module][name] for module, name in found.choices.items()}
    counts = Counter(found.choices.values()).most_common()
    progress.note(f"fit {target}: " + ", ".join(f"{count} of {name}" for name, count in counts))
    asked = {"asked": str(target), "budget": opened.around + room, "by": known.words}
    return Chosen(layouts, {**asked, **_report(opened, found, table)})


def _report(opened: Open, found: Best, table: Mapping[str, Mapping[str, Cost]]) -> JsonDict:
    """What was chosen, as the report of a fit has it (validate/report/schema_fit.py)."""
    losses = {module: table[module][name].loss for module, name in found.choices.items()}
    total = sum(losses.values()) or 1.0
    matrices = [
        {
            "name": tensor.name,
            "type": found.choices[tensor.module],
            "values": prod(tensor.placed.shape),
            "bytes": table[tensor.module][found.choices[tensor.module]].bytes,
            "cost": losses[tensor.module],
            "share": losses[tensor.module] / total,
        }
        for tensor in opened.free
    ]
    why = {"why": "chosen for the size", "predicted": found.loss, "measured": None}
    return {"bytes": opened.around + found.bytes, **why, "candidates": [why], "matrices": matrices}


@dataclass(frozen=True, eq=False)
class _Known:
    """What layouts can be chosen by; each may be missing."""

    folder: Folder
    gradients: Gradients | None
    importance: Importance | None

    @property
    def words(self) -> str:
        """For a report."""
        if self.gradients is not None:
            return "gradients"
        return "an importance matrix" if self.importance is not None else "nothing: every error counts alike"

    def matrix(self, tensor: ModelTensor, kinds: Mapping[str, Layout | None]) -> Matrix:
        experts, outputs, columns = _sizes(tensor)
        how = self._weighings(tensor)
        candidates = [Candidate(name, _through(one, tensor.dtype)) for name, one in kinds.items()]
        rows = partial(self._rows, tensor)
        weights = self._squares(tensor)
        if weights is None and self.gradients is not None:
            weights = how[0].squares
        return Matrix(tensor.module, experts, outputs, columns, rows, how, weights, candidates)

    def _rows(self, tensor: ModelTensor, places: np.ndarray) -> np.ndarray:
        """float32 of some rows, counted over all experts."""
        _, outputs, _ = _sizes(tensor)
        found = []
        for expert in np.unique(places // outputs):
            piece = tensor.placed.pieces[expert if tensor.placed.stacked else 0]
            source = self.folder.checkpoint.tensors[piece.source]
            seen = piece.view.of(source.load(), self.folder.text)
            matrix = seen if seen.ndim == 2 else seen[expert]
            found.append(to_float32(np.ascontiguousarray(matrix[places[places // outputs == expert] % outputs])))
            source.release()
        return np.concatenate(found)

    # ---- how errors count

    def _weighings(self, tensor: ModelTensor) -> tuple[Weighing, ...]:
        experts, outputs, columns = _sizes(tensor)
        squares = self._squares(tensor)
        squares = np.ones(columns, np.float32) if squares is None else squares
        squares = np.broadcast_to(squares.reshape(-1, columns), (experts, columns))
        if self.gradients is None:
            return (Weighing(None, squares),)
        found = [one for one in self._of_gradients(tensor, self.gradients) if one is not None]
        return tuple(found) or (Weighing(np.full((experts, outputs), self.gradients.usual, np.float32), squares),)

    def _of_gradients(self, tensor: ModelTensor, gradients: Gradients) -> Iterator[Weighing | None]:
        experts, outputs, columns = _sizes(tensor)
        parts = [(piece, gradients.matrix(piece.source)) for piece in tensor.placed.pieces]
        seen = [self._seen(piece, one, tensor) for piece, one in parts if one is not None]
        if len(seen) == len(parts):
            yield _stacked(seen)
        first = parts[0][0].source
        if experts == 1 and (table := gradients.embedding(first)) is not None and table.rows is not None:
            if table.rows.shape == (1, outputs):
                yield Weighing(table.rows, np.broadcast_to(table.squares, (1, columns)))
            if not seen and self.folder.tied:
                yield gradients.head(outputs)

    def _seen(self, piece: Piece, one: Weighing, tensor: ModelTensor) -> Weighing:
        """As the folder has the rows; those of a piece that lies otherwise count alike."""
        assert one.rows is not None
        experts, outputs, columns = _sizes(tensor)
        experts = 1 if tensor.placed.stacked else experts
        rows, squares = one.rows, one.squares
        if piece.view.keeps_columns:
            whole = rows[..., None] if rows.shape[0] > 1 or experts > 1 else rows[0][:, None]
            rows = piece.view.of(whole, self.folder.text).reshape(-1)
        if rows.size != experts * outputs:
            rows = np.full(experts * outputs, one.rows.mean(), np.float32)
        if squares.shape != (experts, columns):
            squares = np.full((experts, columns), squares.mean(), np.float32)
        return Weighing(np.ascontiguousarray(rows).reshape(experts, outputs), squares)

    def _squares(self, tensor: ModelTensor) -> np.ndarray | None:
        """(columns,) or (experts, columns) of the importance matrix; None where it knows nothing of the tensor."""
        if self.importance is None:
            return None
        experts, _, columns = _sizes(tensor)
        pieces = tensor.placed.pieces
        slabs = [Slab(p) for p in pieces] if tensor.placed.stacked else [Slab(pieces[0], n) for n in range(experts)]
        found = [self.importance.costs(slab, columns) for slab in slabs]
        there = [one for one in found if one is not None]
        if len(there) < len(found):
            return None
        return there[0] if experts == 1 else np.stack(there)


def _sizes(tensor: ModelTensor) -> tuple[int, int, int]:
    """Experts, and rows and columns of each."""
    *rest, outputs, columns = tensor.placed.shape
    return prod(rest), outputs, columns


def _stacked(parts: list[Weighing]) -> Weighing:
    rows = np.concatenate([one.rows for one in parts if one.rows is not None])
    return Weighing(rows, np.concatenate([one.squares for one in parts]))


def _through(layout: Layout | None, dtype: str) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Encoded as the folder will have it, and read back."""

    def kept(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        del weights
        return rounded(values, dtype)

    def through(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        assert layout is not None
        return decode(searched(rounded(values, dtype), layout, dtype, weights), layout)

    return kept if layout is None else through
