"""What errors in a model's matrices cost, on disk: one file, small beside the model. A calibration stage writes it.

    K.rows      float32 (experts, outputs)   mean squares of gradients a token; one expert for what is none's
    K.squares   float32 (experts, columns)   what goes in, each token weighed by its gradients
    K.rounding32   float32 (experts, columns)   squares of what 8 bits a block of 32 columns lose of it; K.rounding256
    K.tokens    float32 (vocabulary,)        of an embedding: mean squares of gradients where a token stands
    held_out    int32 (tokens,)              rows that nothing was calibrated on, one behind the other
    lengths     int32 (rows,)                their lengths

K are numbers; the metadata has `names` (K -> parameter of the loaded model), `sources` (parameter -> the tensor of the
checkpoint that it is, where it is one) and `rows` (what was read).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact
from convert.errors import InputError
from convert.json_types import JsonObject
from convert.source.checkpoint import open_files
from convert.source.safetensors import read_header, write

if TYPE_CHECKING:
    from torch import Tensor

    from convert.model.fisher import Fisher

KIND, FILE = "gradients", "fisher.safetensors"
ROUNDING = {32: "rounding32", 256: "rounding256"}
TYPES = {np.dtype(np.float32): "F32", np.dtype(np.int32): "I32"}
REMEDY = "run the calibration stage again"


@dataclass(frozen=True, eq=False)
class MatrixFisher:
    """Of a matrix, or of each of some experts: see above."""

    rows: np.ndarray
    squares: np.ndarray
    rounding: Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class FisherFile:
    """What the file holds, by parameter of the loaded model."""

    matrices: Mapping[str, MatrixFisher]
    by_token: Mapping[str, np.ndarray]
    sources: Mapping[str, str]
    held_out: Sequence[Sequence[int]]


def save(
    path: Path, found: Fisher, sources: Mapping[str, str], held_out: Sequence[Sequence[int]], rows: JsonObject
) -> Artifact:
    """The artifact of the new file; equal gradients give equal bytes."""
    matrices = _stacked(found)
    tokens = {f"{name}.weight": values.numpy().astype(np.float32) for name, values in found.by_token.items()}
    places = {str(number): name for number, name in enumerate(sorted({*matrices, *tokens}))}
    arrays: dict[str, np.ndarray] = {}
    for place, name in places.items():
        if one := matrices.get(name):
            arrays |= {f"{place}.rows": one.rows, f"{place}.squares": one.squares}
            arrays |= {f"{place}.{ROUNDING[size]}": rounding for size, rounding in one.rounding.items()}
        if name in tokens:
            arrays[f"{place}.tokens"] = tokens[name]
    arrays["held_out"] = np.array([token for row in held_out for token in row], np.int32)
    arrays["lengths"] = np.array([len(row) for row in held_out], np.int32)
    words = {
        "names": json.dumps(places),
        "sources": json.dumps({name: sources[name] for name in places.values() if name in sources}, sort_keys=True),
        "rows": json.dumps(rows, sort_keys=True),
    }
    specs = {name: (TYPES[array.dtype], array.shape) for name, array in arrays.items()}
    made = write(path, specs, (np.ascontiguousarray(array).data for array in arrays.values()), words)
    return Artifact(KIND, made.path, made.size, made.sha256)


def _stacked(found: Fisher) -> dict[str, MatrixFisher]:
    """By parameter; experts, which are gathered one by one, on top of each other."""
    experts: dict[str, dict[int, str]] = {}
    for name in found.rows:
        base, bracket, number = name.rstrip("]").rpartition("[")
        if bracket:
            experts.setdefault(base, {})[int(number)] = name
    made = {name: _stack(found, [numbers.get(n) for n in range(max(numbers) + 1)]) for name, numbers in experts.items()}
    return made | {f"{name}.weight": _stack(found, [name]) for name in found.rows if not name.endswith("]")}


def _stack(found: Fisher, names: Sequence[str | None]) -> MatrixFisher:
    """Zeros for an expert that saw no token."""
    like = next(name for name in names if name)
    inputs = [found.inputs[name] if name else None for name in names]

    def stacked(values: Sequence[Tensor | None], one: Tensor) -> np.ndarray:
        rows = [np.zeros(one.shape) if value is None else value.numpy() for value in values]
        return np.stack(rows).astype(np.float32)

    return MatrixFisher(
        stacked([found.rows[name] if name else None for name in names], found.rows[like]),
        stacked([one.squares if one else None for one in inputs], found.inputs[like].squares),
        {
            size: stacked([one.rounding[size] if one else None for one in inputs], rounding)
            for size, rounding in found.inputs[like].rounding.items()
        },
    )


def load(path: Path) -> FisherFile:
    """What `save` wrote. Raises InputError for what is no such file."""
    try:
        words = read_header(path).metadata
        places, sources = json.loads(words["names"]), json.loads(words["sources"])
        arrays = {name: np.array(tensor.load()) for name, tensor in open_files([path]).items()}
        matrices = dict(_matrices(places, arrays))
        by_token = {name: arrays[f"{k}.tokens"] for k, name in places.items() if f"{k}.tokens" in arrays}
        ends = np.cumsum(arrays["lengths"])[:-1]
        held_out = [row.tolist() for row in np.split(arrays["held_out"], ends)] if len(arrays["lengths"]) else []
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(str(path), f"holds no gradients ({error})", "", REMEDY) from None
    return FisherFile(matrices, by_token, sources, held_out)


def _matrices(places: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> Iterator[tuple[str, MatrixFisher]]:
    for place, name in places.items():
        if f"{place}.rows" in arrays:
            rounding = {
                size: arrays[f"{place}.{word}"] for size, word in ROUNDING.items() if f"{place}.{word}" in arrays
            }
            yield name, MatrixFisher(arrays[f"{place}.rows"], arrays[f"{place}.squares"], rounding)


def forecast_bytes(shapes: Sequence[tuple[int, int, int]], vocabulary: int) -> int:
    """About as large as the file will be, of matrices (experts, outputs, columns)."""
    return (
        4 * sum(e * (rows + columns + columns // 32 + columns // 256) for e, rows, columns in shapes) + 4 * vocabulary
    )
