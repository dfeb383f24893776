"""What a calibration stage measured, for the encoder of a GGUF file: the Gram matrix of what goes into each matrix.

Rows are encoded by several threads, each with products of matrices of its own: the bytes do not depend on how many.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Bundle
from convert.errors import StageError
from convert.formats.gguf.tensors import CHUNK_VALUES, StreamedTensor
from convert.model.statistics import Measured, measured_matrices
from convert.needs import MB, cores
from convert.source.untrusted import listed
from quantize.blocks import TYPES

if TYPE_CHECKING:
    from quantize.gptq import Inputs

KEPT_BYTES = 512 * MB  # of Gram matrices and their factors, for the next matrix with the same inputs
COPIES = 12  # of a chunk of rows in float32, while it is refined
LOOKED_AT = 16  # rows, to see in which order a matrix has its columns


@dataclass(frozen=True)
class _Key:
    """A Gram matrix, its columns in an order."""

    measured: Measured
    expert: int
    order: bytes


@dataclass
class Refinement:
    """The matrices of a file whose inputs were measured, by name, and what became of them."""

    measured: Mapping[str, Measured]
    matrices: frozenset[str]
    _kept: OrderedDict[_Key, Inputs | None] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _errors: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)  # type, tensor -> before, after
    _ordinary: dict[str, str] = field(default_factory=dict)  # tensor -> why it is encoded as ever
    _unseen: set[tuple[str, int]] = field(default_factory=set)  # tensor, expert
    _kinds: set[str] = field(default_factory=set)  # types that cannot be refined

    @classmethod
    def of(cls, source: Bundle, tensors: Sequence[StreamedTensor]) -> Refinement:
        """Of a calibration stage's bundle, for the tensors of a file. Raises InputError for no statistics."""
        matrices = (t.name for t in tensors if _is_matrix(t))
        return cls(measured_matrices(source), frozenset(matrices))

    @contextlib.contextmanager
    def threads(self) -> Iterator[None]:
        """A context in which threads may call `begin_thread`."""
        import torch

        before = torch.get_num_threads()
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def begin_thread(self) -> None:
        """Products of matrices in this thread alone."""
        import torch

        torch.set_num_threads(1)

    def find(self, tensor: StreamedTensor) -> RefinedTensor | None:
        """The tensor, where what goes into it is known."""
        if tensor.name not in self.matrices:
            return None
        measured = self.measured.get(tensor.name)
        if measured is None:
            self._ordinary[tensor.name] = "nothing was measured"
            return None
        experts = len(tensor.shape) > 2 and measured.experts == tensor.shape[0]
        order = column_order(tensor, measured.columns)
        if order is None or (measured.experts > 1 and not experts):
            self._ordinary[tensor.name] = "its columns are not what was measured"
            return None
        return RefinedTensor(self, tensor, measured, order, tensor.rows // measured.experts)

    def inputs(self, key: _Key, order: np.ndarray) -> Inputs | None:
        """The Gram matrix and its factor; None of an expert that saw no token. One is made at a time."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            while self._kept and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)
            self._kept[key] = made = _inputs(key, order)
            return made

    def note_errors(self, tensor: str, kind: str, errors: np.ndarray) -> None:
        """Squared errors of some rows' outputs, by the ordinary encoder and now."""
        with self._lock:
            self._errors[kind, tensor] = self._errors.get((kind, tensor), np.zeros(2)) + errors

    def note_unseen(self, tensor: str, expert: int) -> None:
        """That an expert is encoded as ever."""
        with self._lock:
            self._unseen.add((tensor, expert))

    def note_kind(self, kind: str) -> None:
        """That a type is encoded as ever."""
        with self._lock:
            self._kinds.add(kind)

    def lines(self) -> Iterator[str]:
        """What was refined and by how much, and what was not."""
        kinds: dict[str, list[float]] = {}
        for (kind, _), (before, after) in sorted(self._errors.items()):
            kinds.setdefault(kind, []).append(float(after / before) if before else 1.0)
        for kind, ratios in kinds.items():
            yield (
                f"refined: {len(ratios)} matrices in {kind}, squared errors of their outputs "
                f"{float(np.median(ratios)):.2f} of the ordinary encoder's (median)"
            )
        if blocks := [kind for kind in sorted(self._kinds) if TYPES[kind].values > 1]:
            yield f"not refined: matrices in {', '.join(blocks)}, which the ordinary encoder makes"
        for why in sorted(set(self._ordinary.values())):
            names = [name for name, reason in self._ordinary.items() if reason == why]
            yield f"not refined: {listed(names)}: {why}"
        if self._unseen:
            tensor, _ = min(self._unseen)
            yield f"not refined: {len(self._unseen)} matrices of experts that saw no token ({tensor}, …)"


@dataclass(frozen=True)
class RefinedTensor:
    """A tensor whose inputs were measured; so many `rows` of it are given the same."""

    refinement: Refinement
    tensor: StreamedTensor
    measured: Measured
    order: np.ndarray
    rows: int

    def encode(self, name: str, row: int, values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        """uint8 (rows, row bytes) of some of its rows, from `row` on, all of one expert."""
        from quantize.encoders import ENCODERS
        from quantize.feedback import REFINED, refine

        if name not in REFINED:
            self.refinement.note_kind(name)
            return ENCODERS[name](values, weights)
        expert = row // self.rows
        inputs = self.refinement.inputs(_Key(self.measured, expert, self.order.tobytes()), self.order)
        if inputs is None:
            self.refinement.note_unseen(self.tensor.name, expert)
            return ENCODERS[name](values, weights)
        made = refine(values, inputs, name, weights)
        errors = np.array([made.before.sum(), made.after.sum()])
        self.refinement.note_errors(self.tensor.name, name, errors)
        return made.encoded


def refinement_bytes(tensors: Sequence[StreamedTensor]) -> int:
    """Memory: torch, what is kept, the largest Gram matrix four times while it is made, and chunks of rows."""
    from convert.model.memory_needs import LIBRARIES

    columns = max((t.row_values for t in tensors if _is_matrix(t)), default=0)
    rows = max(CHUNK_VALUES, columns)
    return LIBRARIES + KEPT_BYTES + 4 * 4 * columns**2 + 2 * cores() * COPIES * 4 * rows


def _is_matrix(tensor: StreamedTensor) -> bool:
    ours = len(tensor.shape) > 1 and tensor.name.endswith(".weight") and tensor.output.packed is None
    return ours and tensor.source is not None and "_norm." not in tensor.name


def column_order(tensor: StreamedTensor, columns: int) -> np.ndarray | None:
    """int64 (columns,): which of its inputs each column is for; None where columns are not inputs."""
    part = tensor.parts[0] if tensor.parts else tensor.source
    view = tensor.output.view
    if part is None or tensor.row_values != columns:
        return None
    if view is None:
        return np.arange(columns) if part.shape[-1] == columns else None
    shape = [1] * len(part.shape)
    axis = -2 if tensor.output.transposed else -1
    shape[axis] = columns
    if part.shape[axis] != columns:
        return None
    seen = view(np.broadcast_to(np.arange(columns, dtype=np.int32).reshape(shape), part.shape))
    some = np.linspace(0, len(seen) - 1, min(LOOKED_AT, len(seen))).astype(int)
    rows = np.concatenate([seen[at].reshape(-1, columns)[[0, -1]] for at in some])
    order = rows[0].astype(np.int64)
    same = (rows == order).all() and np.array_equal(np.sort(order), np.arange(columns))
    return order if same else None


def _inputs(key: _Key, order: np.ndarray) -> Inputs | None:
    from quantize.gptq import Inputs

    found = key.measured.gram(key.expert)
    if found is None:
        return None
    gram = found[0].numpy()
    if not np.array_equal(order, np.arange(len(order))):
        gram = np.ascontiguousarray(gram[order][:, order])
    try:
        return Inputs(gram, own=True)
    except ValueError as error:
        raise StageError(str(key.measured.path), str(error), "", "run the calibration stage again") from error


def _bytes(inputs: Inputs | None) -> int:
    return 0 if inputs is None else 2 * 4 * inputs.columns**2
