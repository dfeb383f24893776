"""What each type would cost each tensor of a GGUF file, kept by content: another budget costs seconds.

FOLDER/<hash>.json    {tensor: {type: cost}}; the hash is of all that costs depend on but the type
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convert import keys
from convert.bundle import Bundle, Role
from convert.distribution import install_command, version
from convert.errors import PlanError, Problem
from convert.files import STATE_FOLDER
from convert.formats.gguf.calibration import model_key
from convert.formats.gguf.fit_weighing import Known, importance, weighings
from convert.formats.gguf.tensors import StreamedTensor
from convert.model import sensitivity
from convert.model.sensitivity import Candidate, Matrix, Weighing
from convert.progress import Progress
from quantize.blocks import TYPES
from quantize.encoders import ENCODERS, NEED_IMPORTANCE
from quantize.floats import to_float32

FORM = 4  # raise it when the same tensor and type would cost something else
Costs = dict[str, dict[str, float]]

OF_OTHER_MODELS = ("TQ1_0", "TQ2_0", "MXFP4", "NVFP4")  # made for weights that were trained in them; few runtimes have
WEIGHTED = NEED_IMPORTANCE | {"IQ1_S", "IQ1_M", "IQ2_S", "IQ3_XXS"}  # garbage without importance weights
ROUNDED_IN_256 = 256  # inputs of types with super-blocks; all other block types round 32 together (ggml-cpu.c)


def folder_of(out: Path) -> Path:
    """Where costs are kept, of a step that writes to `out`."""
    return out.parent / STATE_FOLDER / "fit"


def types_for(tensor: StreamedTensor, *, weighted: bool) -> list[str]:
    """The types that a tensor's rows can have, smallest first."""
    left_out = {"F32", *OF_OTHER_MODELS, *(() if weighted else WEIGHTED)}
    fitting = [TYPES[name] for name in ENCODERS if name not in left_out and TYPES[name].fits(tensor.row_values)]
    return [kind.name for kind in sorted(fitting, key=lambda kind: (kind.bits_per_value, kind.id))]


class CostMemory:
    """The costs that are known of a source, by its weights and all that they were weighed by."""

    def __init__(self, folder: Path, source: Bundle, imatrix_sha256: str) -> None:
        gradients = [artifact.sha256 for artifact in source.of(Role.GRADIENTS)]
        sample = [sensitivity.SAMPLE_VALUES, sensitivity.FEWEST_ROWS]
        words = [FORM, version(), model_key(source), gradients, imatrix_sha256, sample]
        self.path = folder / f"{keys.sha256(words)}.json"

    def load(self) -> Costs:
        """What is known."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_bytes())
            if isinstance(found, dict):
                return {str(name): {str(k): float(c) for k, c in kinds.items()} for name, kinds in found.items()}
        return {}

    def save(self, costs: Mapping[str, Mapping[str, float]]) -> None:
        """Keep it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(costs), encoding="utf-8")
        part.replace(self.path)


@dataclass(frozen=True)
class Kept:
    """Where costs are kept, and who is told of new ones."""

    memory: CostMemory
    progress: Progress


def costs(known: Known, tensors: Sequence[StreamedTensor], kinds: Mapping[str, Sequence[str]], kept: Kept) -> Costs:
    """{tensor: {type: cost}} of the types asked for; what was measured before is not measured again."""
    found = kept.memory.load()
    lacking = {name: [kind for kind in wanted if kind not in found.get(name, {})] for name, wanted in kinds.items()}
    waiting = [tensor for tensor in tensors if lacking.get(tensor.name)]
    if waiting:
        kept.progress.start("what each type costs", len(waiting), "matrix")
        how = weighings(known, tensors)
        matrices = (_matrix(known, tensor, how[tensor.name], lacking[tensor.name]) for tensor in waiting)
        for name, measured in sensitivity.costs(matrices, lambda _: kept.progress.advance(1)):
            found.setdefault(name, {}).update(measured)
        kept.memory.save(found)
    return {name: {kind: found[name][kind] for kind in wanted} for name, wanted in kinds.items()}


def _matrix(known: Known, tensor: StreamedTensor, how: Sequence[Weighing], kinds: Sequence[str]) -> Matrix:
    experts = tensor.shape[0] if len(tensor.shape) == 3 else 1
    return Matrix(
        tensor.name,
        experts,
        tensor.rows // experts,
        tensor.row_values,
        partial(_rows, tensor),
        how,
        importance(known, tensor, how),
        [_candidate(kind) for kind in kinds],
    )


def _rows(tensor: StreamedTensor, places: np.ndarray) -> np.ndarray:
    """float32 of some rows; of a mapped file only those are read."""
    found, row = [], 0
    for chunk in tensor.chunks():
        inside = places[(places >= row) & (places < row + len(chunk))] - row
        if len(inside):
            found.append(to_float32(np.ascontiguousarray(chunk[inside])))
        row += len(chunk)
    if tensor.source is not None:
        tensor.source.release()
    return np.concatenate(found)


def _candidate(name: str) -> Candidate:
    values = TYPES[name].values
    block = 0 if values == 1 else ROUNDED_IN_256 if values == ROUNDED_IN_256 else 32
    return Candidate(name, _through(name), block)


def _through(name: str) -> Callable[[np.ndarray, np.ndarray | None], np.ndarray]:
    """Encoded as the file will have it, decoded by gguf-py, which is llama.cpp's own."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    def through(values: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
        encoded = np.ascontiguousarray(ENCODERS[name](values, weights)).view(np.uint8).reshape(len(values), -1)
        return np.asarray(dequantize(encoded, GGMLQuantizationType[name]), np.float32)

    return through


def check_decoder() -> None:
    """Raise PlanError where gguf-py is not installed."""
    try:
        import gguf  # noqa: F401
    except ModuleNotFoundError:
        got = "fit: needs gguf, which reads back what types make of the weights"
        raise PlanError(Problem("gguf", got, "", install_command("inspect"))) from None
