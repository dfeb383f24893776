"""How errors in each tensor of a GGUF file count: from gradients, an importance matrix, or nothing at all.

Gradients are by the parameters of the loaded model; the file's tensors are those cut, stacked, and rearranged, and so
is what is known of their rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from convert.architectures import Family
from convert.architectures._graph_spec import GraphSpec, OutputTensor, SourceTensor
from convert.formats.gguf.calibration import EXPERTS, LAYER
from convert.formats.gguf.imatrix import Imatrix
from convert.formats.gguf.tensors import StreamedTensor
from convert.model.fisher_file import FisherFile, MatrixFisher
from convert.model.sensitivity import Weighing

EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"


@dataclass(frozen=True, eq=False)
class Known:
    """What a choice of types can be made by; each may be missing."""

    family: Family
    spec: GraphSpec
    fisher: FisherFile | None
    imatrix: Imatrix | None

    @property
    def held_out(self) -> Sequence[Sequence[int]]:
        """Rows that nothing was calibrated on."""
        return self.fisher.held_out if self.fisher is not None else ()

    @property
    def words(self) -> str:
        """The same, for a report."""
        if self.fisher is not None:
            return "gradients"
        return "an importance matrix" if self.imatrix is not None else "nothing: every error counts alike"


def weighings(known: Known, tensors: Sequence[StreamedTensor]) -> dict[str, tuple[Weighing, ...]]:
    """Tensor -> how its errors count. What no gradient went through counts as the others do in the middle."""
    if known.fisher is None:
        return {t.name: (Weighing(None, _squares(known, t)),) for t in tensors}
    found = _of_fisher(known, known.fisher, {t.name: t for t in tensors})
    usual = float(np.median([w.rows.mean() for ws in found.values() for w in ws if w.rows is not None] or [1.0]))
    for tensor in tensors:
        if tensor.name not in found:
            experts, outputs = _sizes(tensor)
            rows = np.full((experts, outputs), usual, np.float32)
            found[tensor.name] = (Weighing(rows, _squares(known, tensor)),)
    return found


def importance(known: Known, tensor: StreamedTensor, how: Sequence[Weighing]) -> np.ndarray | None:
    """What encoders are given for a tensor: (columns,), or (experts, columns); None where nothing is known.

    The importance matrix; where it has no entry, gradients: the embedding that is the head too has an importance then.
    (With gradients for all, SmolLM2-135M drifts 8 % more at 6.6 bits: the few columns with huge values, of tokens that
    hardly matter, get errors that are no longer small.)
    """
    weights = known.imatrix.weights(tensor.name, tensor.row_values) if known.imatrix else None
    if weights is not None or known.fisher is None:
        return weights
    found: np.ndarray = np.zeros((_sizes(tensor)[0], tensor.row_values))
    for one in how:
        assert one.rows is not None
        found += one.rows.mean(1, keepdims=True, dtype=np.float64) * one.squares
    scale = found.mean(1, keepdims=True)
    found = np.where(scale > 0, found / np.maximum(scale, 1e-300), 1.0).astype(np.float32)
    return found[0] if len(found) == 1 else found


def _sizes(tensor: StreamedTensor) -> tuple[int, int]:
    """Experts, and outputs of each."""
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    return experts, tensor.rows // experts


def _squares(known: Known, tensor: StreamedTensor) -> np.ndarray:
    """(experts, columns) of the importance matrix; ones where it knows nothing of the tensor."""
    experts, _ = _sizes(tensor)
    weights = known.imatrix.weights(tensor.name, tensor.row_values) if known.imatrix else None
    weights = np.ones(tensor.row_values, np.float32) if weights is None else weights
    return np.broadcast_to(weights.reshape(-1, tensor.row_values), (experts, tensor.row_values))


def _of_fisher(
    known: Known, fisher: FisherFile, tensors: Mapping[str, StreamedTensor]
) -> dict[str, tuple[Weighing, ...]]:
    sources = {tensor.source: tensor for tensor in known.spec.tensors}
    found: dict[str, tuple[Weighing, ...]] = {}
    stacks: dict[str, dict[int, Weighing]] = {}
    for parameter, matrix in fisher.matrices.items():
        source = _source(known, fisher, sources, parameter)
        if source is None:
            found |= dict(_of_experts(parameter, matrix, tensors) or _of_head(matrix, tensors, found))
            continue
        for output in source.outputs:
            if output.name in tensors and not output.packed:
                one = _rearranged(output, source.shape, matrix)
                if output.place is None:
                    found[output.name] = (one,)
                else:
                    stacks.setdefault(output.name, {})[output.place] = one
    found |= {name: (_stacked(parts, tensors[name]),) for name, parts in stacks.items()}
    for values in fisher.by_token.values():
        if EMBEDDING in tensors and len(values) == tensors[EMBEDDING].rows:
            ones = np.ones((1, tensors[EMBEDDING].row_values), np.float32)
            found[EMBEDDING] = (*found.get(EMBEDDING, ()), Weighing(values[None], ones))
    return found


def _source(
    known: Known, fisher: FisherFile, sources: Mapping[str, SourceTensor], parameter: str
) -> SourceTensor | None:
    names = (parameter, fisher.sources.get(parameter, parameter))
    if parameter.rpartition(".")[2] in EXPERTS:
        return None
    return next((sources[own] for own in map(known.family.own_name, names) if own in sources), None)


def _of_experts(
    parameter: str, matrix: MatrixFisher, tensors: Mapping[str, StreamedTensor]
) -> list[tuple[str, tuple[Weighing, ...]]]:
    """The stacks that a parameter of experts becomes: gate and up are its halves."""
    layer, name = LAYER.search(parameter), parameter.rpartition(".")[2]
    names = [f"blk.{layer[1]}.{stack}.weight" for stack in EXPERTS.get(name, ())] if layer else []
    there = [tensors[stack] for stack in names if stack in tensors]
    found: list[tuple[str, tuple[Weighing, ...]]] = []
    done = 0
    for tensor in there:
        experts, outputs = _sizes(tensor)
        rows = matrix.rows[:experts, done : done + outputs]
        if rows.shape != (experts, outputs) or matrix.squares.shape[1] != tensor.row_values:
            return []
        done += outputs
        found.append((tensor.name, (Weighing(rows, matrix.squares, matrix.rounding),)))
    return found


def _of_head(
    matrix: MatrixFisher, tensors: Mapping[str, StreamedTensor], found: Mapping[str, tuple[Weighing, ...]]
) -> Iterator[tuple[str, tuple[Weighing, ...]]]:
    """The head that is the embedding too: no tensor of the checkpoint has its name."""
    embedding = tensors.get(EMBEDDING)
    if embedding is not None and OUTPUT not in tensors and matrix.rows.shape == (1, embedding.rows):
        yield EMBEDDING, (Weighing(matrix.rows, matrix.squares, matrix.rounding), *found.get(EMBEDDING, ()))


def _rearranged(output: OutputTensor, shape: tuple[int, ...], matrix: MatrixFisher) -> Weighing:
    """What is known of rows and columns, as the file has them: put through the view that the weights go through."""
    rows, squares = matrix.rows[0], matrix.squares[0]
    outputs, columns = int(np.prod(output.shape[:-1])), output.shape[-1]
    across = (rows[None, :], squares[:, None]) if output.transposed else (rows[:, None], squares[None, :])
    try:
        whole = [np.broadcast_to(values, shape) for values in across]
        seen = [values if output.view is None else output.view(values) for values in whole]
        rows = seen[0].reshape(-1, columns)[:, 0]
        moved = seen[1].reshape(-1, columns)[0]
    except (ValueError, IndexError):  # a tensor of more axes, of which rows and columns are not known apart
        rows, moved = np.full(outputs, rows.mean(), np.float32), squares
    rows = np.concatenate([rows, np.zeros(max(0, outputs - len(rows)), np.float32)])[:outputs]
    if output.row_factors is not None:
        rows = rows / np.maximum(np.square(output.row_factors), 1e-30)
    if len(moved) != columns:
        return Weighing(rows[None], np.full((1, columns), squares.mean(), np.float32))
    rounding = matrix.rounding if np.array_equal(moved, squares) else {}
    return Weighing(rows[None], moved[None], rounding)


def _stacked(parts: Mapping[int, Weighing], tensor: StreamedTensor) -> Weighing:
    """Experts that are modules of their own, on top of each other; zeros for one that saw no token."""
    experts, outputs = _sizes(tensor)
    rows, squares = np.zeros((experts, outputs), np.float32), np.zeros((experts, tensor.row_values), np.float32)
    for place, one in parts.items():
        assert one.rows is not None
        rows[place], squares[place] = one.rows[0], one.squares[0]
    like = next(iter(parts.values())).rounding
    rounding = {size: np.zeros((experts, values.shape[1]), np.float32) for size, values in like.items()}
    for place, one in parts.items():
        for size in rounding.keys() & one.rounding.keys():
            rounding[size][place] = one.rounding[size][0]
    return Weighing(rows, squares, rounding)
