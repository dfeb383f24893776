"""What went into a model's matrices, on disk: a file a layer, from one pass over the calibration rows.

FOLDER/layer-000.safetensors holds, for each thing K that matrices were given,

    K.counts   int64 (experts,)              tokens; one number for what is no expert's
    K.squares  float64 (experts, columns)    sums of squares
    K.sizes    float64 (experts, columns)    sums of absolute values
    K.largest  float32 (experts, columns)    largest absolute values
    K.E.gram   float32 (values,)             of expert E, where Gram matrices are kept: X^T X, `Inputs.stripes`

and in its metadata, as JSON, `layer` (its name in the loaded model), `inputs` (parameter of the loaded model -> K),
`norms` (parameter -> the weight of the norm whose output it was given), `matrices` (tensor of the model's GGUF file
-> K) and `rows` (what was read). So several stages
quantize from one pass, in as many ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convert.bundle import Artifact, Bundle, Role
from convert.errors import InputError
from convert.json_types import JsonDict, JsonObject
from convert.model.memory_needs import GRAM_COLUMNS
from convert.source.checkpoint import LazyTensor, open_files
from convert.source.safetensors import read_header, write

if TYPE_CHECKING:
    from torch import Tensor

    from convert.model.inputs import Inputs

PLAIN, WITH_GRAMS = "statistics", "statistics/gram"  # kinds of artifacts
TYPES = {np.dtype(np.int64): "I64", np.dtype(np.float64): "F64", np.dtype(np.float32): "F32"}
SUMS = ("counts", "squares", "sizes", "largest")
REMEDY = "run the calibration stage again"


@dataclass(frozen=True)
class LayerInputs:
    """Of a layer of that name: parameter -> what went into it, and -> the norm in front."""

    name: str
    found: Mapping[str, Inputs]
    norms: Mapping[str, str]
    matrices: Mapping[str, str] = field(default_factory=dict)  # tensor of the GGUF file -> parameter


@dataclass(frozen=True)
class Measured:
    """What went into a matrix, not read yet: how many columns, and whether of each expert by itself."""

    path: Path
    place: str
    experts: int
    columns: int

    def gram(self, expert: int = 0) -> tuple[Tensor, int] | None:
        """float32 (columns, columns): X^T X / tokens, and the number of tokens; None of an expert that saw none."""
        from torch import from_numpy

        from convert.model.inputs import Inputs

        tensors = open_files([self.path])
        stripes = tensors.get(f"{self.place}.{expert}.gram")
        if stripes is None:
            return None
        made, tokens = Inputs(self.columns), int(tensors[f"{self.place}.counts"].load()[expert])
        made.counts[0] = tokens
        made.set_stripes(from_numpy(np.array(stripes.load())))
        return made.take_gram(), tokens


@dataclass(frozen=True)
class Statistics:
    """The files of a calibration stage, by layer; `rows` says what was read."""

    files: Mapping[str, Path]
    rows: JsonDict

    @classmethod
    def of(cls, bundle: Bundle) -> Statistics:
        """Those of a bundle. Raises InputError for files that are no statistics."""
        return cls.read([artifact.path for artifact in bundle.of(Role.STATISTICS)])

    @classmethod
    def read(cls, files: Sequence[Path]) -> Statistics:
        """The same of files, one at least."""
        return cls({str(_said(path, "layer")): path for path in files}, _words(files[0], "rows"))

    def load(self, layer: str) -> LayerInputs:
        """What went into a layer. Raises InputError for a layer that is not there, and for what is no such file."""
        path = self.files.get(layer)
        if path is None:
            raise InputError("statistics", f"have nothing of {layer}", "every layer", REMEDY)
        tensors, places = open_files([path]), _words(path, "inputs")
        made = {place: _inputs(path, tensors, str(place)) for place in set(places.values())}
        norms = {str(name): str(norm) for name, norm in _words(path, "norms").items()}
        return LayerInputs(layer, {name: made[place] for name, place in places.items()}, norms)


def measured_matrices(bundle: Bundle) -> dict[str, Measured]:
    """What went into the matrices of the model's GGUF file, by their names. Raises InputError for no statistics."""
    found = {}
    for path in (artifact.path for artifact in bundle.of(Role.STATISTICS)):
        tensors = open_files([path])
        for name, place in _words(path, "matrices").items():
            shape = tensors[f"{place}.squares"].shape
            found[name] = Measured(path, str(place), shape[0], shape[1])
    return found


def has_grams(bundle: Bundle) -> bool:
    """Whether a bundle, or a forecast of one, has statistics that GPTQ and AWQ can be made from."""
    return any(artifact.kind == WITH_GRAMS for artifact in bundle.of(Role.STATISTICS))


def file_of(number: int) -> str:
    """The name of a layer's file."""
    return f"layer-{number:03}.safetensors"


def save(path: Path, layer: LayerInputs, rows: JsonObject, *, grams: bool) -> Artifact:
    """The artifact of a layer's new file; equal statistics give equal bytes."""
    found = layer.found
    distinct = list({id(inputs): inputs for inputs in found.values()}.values())
    places = {id(inputs): str(number) for number, inputs in enumerate(distinct)}
    arrays = [(name, array) for inputs in distinct for name, array in _arrays(places[id(inputs)], inputs, grams)]
    specs = {name: (TYPES[array.dtype], array.shape) for name, array in arrays}
    words = {
        "inputs": json.dumps({name: places[id(inputs)] for name, inputs in found.items()}, sort_keys=True),
        "layer": json.dumps(layer.name),
        "matrices": json.dumps({n: places[id(found[p])] for n, p in sorted(layer.matrices.items())}),
        "norms": json.dumps({name: norm for name, norm in sorted(layer.norms.items()) if name in found}),
        "rows": json.dumps(rows, sort_keys=True),
    }
    made = write(path, specs, (np.ascontiguousarray(array).data for _, array in arrays), words)
    return Artifact(WITH_GRAMS if grams else PLAIN, made.path, made.size, made.sha256)


def _arrays(place: str, inputs: Inputs, grams: bool) -> Iterator[tuple[str, np.ndarray]]:
    for word, tensor in _sums(inputs).items():
        yield f"{place}.{word}", tensor.numpy()
    for expert in range(inputs.experts) if grams else ():
        if len(values := inputs.stripes(expert)):
            yield f"{place}.{expert}.gram", values.numpy()


def _sums(inputs: Inputs) -> dict[str, Tensor]:
    return {"counts": inputs.counts, "squares": inputs.squares, "sizes": inputs.sizes, "largest": inputs.largest}


def _inputs(path: Path, tensors: Mapping[str, LazyTensor], place: str) -> Inputs:
    from torch import from_numpy

    from convert.model.inputs import Inputs

    try:
        sums = {word: np.array(tensors[f"{place}.{word}"].load()) for word in SUMS}
        experts, columns = sums["squares"].shape
        made = Inputs(columns, experts)
        for word, tensor in _sums(made).items():
            tensor.copy_(from_numpy(sums[word]))
        for expert in range(experts):
            if f"{place}.{expert}.gram" in tensors:
                made.set_stripes(from_numpy(np.array(tensors[f"{place}.{expert}.gram"].load())), expert)
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(str(path), f"is no layer's statistics ({error})", "", REMEDY) from None
    return made


def _said(path: Path, key: str) -> object:
    try:
        return json.loads(read_header(path).metadata[key])
    except (KeyError, ValueError) as error:
        raise InputError(str(path), f"is no layer's statistics ({error})", "", REMEDY) from None


def _words(path: Path, key: str) -> JsonDict:
    words = _said(path, key)
    if not isinstance(words, dict):
        raise InputError(str(path), f"is no layer's statistics ({key})", "", REMEDY)
    return words


def gram_bytes(columns: int) -> int:
    """Of a Gram matrix of so many columns, as it is kept."""
    return sum(4 * min(GRAM_COLUMNS, columns - at) * (columns - at) for at in range(0, columns, GRAM_COLUMNS))
